"""The average of the weights and the noise on them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.errors import UserError
from nnunet_ima.methods.averaging import Average, check_ema
from nnunet_ima.methods.weight_noise import weight_noise


def test_the_average_is_the_formula_and_comes_and_goes() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = Average(network, 0.5)
    expected = 0.0
    for step in range(1, 8):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert network.weight.item() == 7.0
    for _ in range(2):
        average.show()
        assert network.weight.item() == pytest.approx(expected)
    for _ in range(2):
        average.hide()
        assert network.weight.item() == 7.0


def test_the_average_continues_from_a_checkpoint() -> None:
    layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    first = nn.Sequential(layer, nn.BatchNorm1d(2))
    average = Average(first, 0.9)
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update()
    live = layer.weight.clone()
    average.show()
    again = nn.Sequential(other, nn.BatchNorm1d(2))
    again.load_state_dict(first.state_dict())
    continued = Average(again, 0.9)
    continued.load_state(average.state())
    continued.hide()
    assert torch.equal(other.weight, live) and continued.steps == 1
    with pytest.raises(UserError, match="of another network"):
        Average(nn.Linear(2, 2), 0.9).load_state(average.state())


@pytest.mark.parametrize("ema", [-0.1, 1, 1.5, "0.9", True, None])
def test_a_decay_out_of_range_is_refused(ema: Any) -> None:
    with pytest.raises(UserError, match="ema must be a number from 0"):
        check_ema(ema)


def quadratic(weight: Tensor) -> Tensor:
    """Half a |w|^2, whose gradient at w is a w."""
    return (weight.square() * torch.tensor([1.0, 4.0])).sum() / 2


@pytest.mark.parametrize("size", [0.0, 0.1])
def test_the_step_is_along_the_gradient_at_the_moved_weights(size: float) -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 1.0]]))
    start = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    quadratic(weight).backward()  # type: ignore[no-untyped-call]
    calls = []

    def again() -> Tensor:
        calls.append(weight.detach().clone())
        return quadratic(weight)

    with weight_noise(optimizer, size, again, lambda: 8.0):
        optimizer.step()
    slope = torch.tensor([[3.0, 4.0]])
    moved = start + size * start.norm() * slope / slope.norm()
    assert torch.allclose(weight, start - 0.1 * moved * torch.tensor([1.0, 4.0]))
    assert [torch.allclose(found, moved) for found in calls] == ([True] if size else [])
    optimizer.step()
    assert len(calls) == (1 if size else 0), "within only"


def test_a_second_gradient_is_clipped_and_one_that_has_no_number_is_not_taken() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 1.0]]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for factor, expected in ((1.0, 0.5), (float("nan"), torch.tensor([3.0, 4.0]).norm().item())):
        with torch.no_grad():
            weight.copy_(torch.tensor([[3.0, 1.0]]))
        optimizer.zero_grad()
        quadratic(weight).backward()  # type: ignore[no-untyped-call]
        with weight_noise(optimizer, 0.1, lambda factor=factor: factor * quadratic(weight), largest=0.5):  # type: ignore[misc]
            optimizer.step()
        assert (torch.tensor([[3.0, 1.0]]) - weight.detach()).norm().item() == pytest.approx(expected, rel=1e-4)


def test_biases_and_layers_without_gradient_stay() -> None:
    network = nn.Linear(2, 2)
    network.unused = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = {}

    def again() -> Tensor:
        seen.update({name: value.clone() for name, value in network.state_dict().items()})
        return network(torch.ones(1, 2)).square().sum()  # type: ignore[no-any-return]

    again().backward()  # type: ignore[no-untyped-call]
    with weight_noise(optimizer, 0.1, again):
        optimizer.step()
    assert not torch.equal(seen["weight"], before["weight"])
    assert all(torch.equal(seen[name], before[name]) for name in before if name != "weight")
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
