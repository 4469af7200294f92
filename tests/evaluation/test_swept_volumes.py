"""The noise sweep over volumes: what holds for slices holds for them, under every attack."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.evaluation.nested import nested
from nnunet_ima.evaluation.noises import ATTACKS, Noise, Target, attack, random_noise, told_per_pixel
from nnunet_ima.evaluation.sweep import Found, sweep
from nnunet_ima.segmentation.cases.slices import Slice
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from tests.evaluation.test_sweep import STEPS, Labels

SHAPE, PATCH = (6, 8, 9), (4, 6, 6)


class Network(nn.Module):
    """Two convolutions in three dimensions with fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 3 * self.layers(x)
        return out


def target() -> Target:
    network = TiledNetwork(Network().eval(), PATCH)
    return Target(network, Labels(), network)


def volumes(count: int = 3) -> list[Slice]:
    """Volumes of several tiles, whose reference is what the network finds without noise."""
    images = torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = target().network(images).argmax(1, keepdim=True)
    return [Slice(f"case{number}", 0, images[number], found[number]) for number in range(count)]


def found(noise: Noise, levels: list[float], batch_size: int) -> Found:
    return sweep(target(), volumes(), [(noise, levels)], batch_size, progress=False).found[noise.name]


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_noise_keeps_to_its_level_and_does_harm_whatever_is_beside_it(name: str) -> None:
    one, together = (found(attack(name, STEPS), [0.0, 4.0], size) for size in (1, 3))
    assert np.array_equal(one.counts, together.counts)
    assert (one.norms[1] <= 4 * (1 + 1e-5)).all() and (one.norms[1] > 0).all()
    assert one.counts[1, ..., 0].sum() < one.counts[0, ..., 0].sum()


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_nested_levels_go_up_for_volumes_too(name: str) -> None:
    upwards = found(nested(attack(name, STEPS), [0.0, 1.0, 4.0]), [0.0, 1.0, 4.0], 2)
    assert (upwards.norms <= np.array([[0.0], [1.0], [4.0]]) * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_levels_per_pixel_are_root_mean_squares(norm: str) -> None:
    noise = told_per_pixel(random_noise(replace(STEPS, norm=norm)))  # type: ignore[arg-type]
    pixels = np.prod(SHAPE) if norm == "l2" else 1
    assert found(noise, [0.1], 2).norms[0] == pytest.approx(0.1 * pixels**0.5, rel=1e-5)
    assert noise.settings["level"] == "RMS per pixel"
