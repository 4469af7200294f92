"""Which networks compute the same in training as in evaluation: real layers, each compared with what it computes."""

from typing import Any

import pytest
import torch
from dynamic_network_architectures.building_blocks.regularization import DropPath
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, StochasticDepth

from nnunet_ima.attacks.modes import same_in_eval_mode
from nnunet_ima.classification.model import build


class Masking(nn.Module):
    """A layer of somebody's own, its mask drawn in a method that `forward` calls."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        return (torch.rand_like(x) > 0.5).to(x) if self.training else torch.ones_like(x)


class Inheriting(Masking):
    """Its `forward` asks for nothing itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


SAME = [
    nn.InstanceNorm2d(4),
    nn.InstanceNorm2d(4, affine=True),
    nn.GroupNorm(2, 4),
    nn.LeakyReLU(),
    nn.Conv2d(4, 4, 1),
    nn.AvgPool2d(2),
    build(2, 4, 0),
]
DIFFERENT = [
    nn.BatchNorm2d(4),
    nn.InstanceNorm2d(4, track_running_stats=True),
    nn.Dropout(0.5),
    nn.Dropout2d(0.5),
    nn.AlphaDropout(0.5),
    DropPath(0.5),
    StochasticDepth(0.5, "row"),
    DropBlock2d(0.5, 3),
    nn.RReLU(),
    Masking(),
    Inheriting(),
]


def _named(module: nn.Module) -> str:
    return type(module).__name__


@pytest.mark.parametrize("layer", SAME, ids=_named)
def test_a_layer_without_modes_is_found_the_same(layer: nn.Module) -> None:
    assert same_in_eval_mode(nn.Sequential(nn.Identity(), layer))
    assert _computes_the_same(layer)


@pytest.mark.parametrize("layer", DIFFERENT, ids=_named)
def test_a_layer_that_computes_something_else_in_training_is_found(layer: nn.Module) -> None:
    assert not same_in_eval_mode(nn.Sequential(nn.Identity(), nn.Sequential(layer)))
    assert not _computes_the_same(layer)


@pytest.mark.parametrize("layer", [nn.InstanceNorm2d(4), nn.BatchNorm2d(4)], ids=_named)
def test_a_compiled_network_is_what_it_wraps(layer: nn.Module) -> None:
    compiled: Any = torch.compile(nn.Sequential(nn.Conv2d(4, 4, 1), layer), backend="eager")
    assert same_in_eval_mode(compiled) == same_in_eval_mode(layer)


def _computes_the_same(layer: nn.Module) -> bool:
    torch.manual_seed(0)
    x = torch.randn(8, 4, 64, 64) + 1
    with torch.no_grad():
        return torch.allclose(layer.eval()(x), layer.train()(x), atol=1e-5)
