"""Passes that compute their activations again: the same gradients, no activations kept."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.segmentation.recompute import keeping_activations, recomputed


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))


def kept(module: nn.Module, x: Tensor) -> int:
    """Numbers that a pass keeps for its gradient."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    return sum(sizes)


def test_gradients_are_the_same_bit_for_bit() -> None:
    plain = network()
    light = copy.deepcopy(plain)
    x = torch.randn(2, 1, 6, 7, 8)
    plain(x).square().sum().backward()
    with recomputed(light):
        light(x).square().sum().backward()
    for one, other in zip(plain.parameters(), light.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


def test_nothing_but_the_input_is_kept() -> None:
    module, x = network(), torch.randn(2, 1, 6, 7, 8)
    usual = kept(module, x)
    with recomputed(module):
        assert kept(module, x) <= x.numel() < usual
        with keeping_activations(module):
            assert kept(module, x) == usual
        assert kept(module, x) <= x.numel()
    assert kept(module, x) == usual


def test_afterwards_the_network_is_as_it_was() -> None:
    module = network()
    with recomputed(module), keeping_activations(module):
        assert "forward" not in vars(module)
    assert "forward" not in vars(module)
    with pytest.raises(ValueError, match="spoiled"), recomputed(module):
        raise ValueError("spoiled")
    assert "forward" not in vars(module)
    with keeping_activations(module):
        pass


@pytest.mark.slow
def test_a_compiled_network_too() -> None:
    plain = network()
    compiled: Any = torch.compile(copy.deepcopy(plain))
    x = torch.randn(2, 1, 6, 7, 8)
    plain(x).square().sum().backward()
    for _ in range(2):
        compiled.zero_grad()
        with recomputed(compiled):
            compiled(x).square().sum().backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4)
