"""Projected Adam: its first steps by hand, and against torch's own Adam."""

import pytest
import torch
from torch import Tensor

from nnunet_ima.attacks import Margin, ball, padam
from nnunet_ima.attacks.padam import Moments
from tests.models import Counting, Curved, at_distances, generators, linear_model

SHAPE = (1, 4, 4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_on_a_linear_model_it_finds_the_steepest_point_of_the_ball(norm: ball.Norm) -> None:
    model = linear_model(SHAPE)
    x = at_distances(model, SHAPE, [0.5, 2.0, 1.0], norm)
    radius, y = torch.tensor([0.4, 1.0, 2.5]), model.label(x)
    found = padam(model, x, y, radius, objective=Margin(), norm=norm, steps=40, generator=generators([1, 2, 3]))
    unit = ball.direction(model.weight.view(SHAPE).expand_as(x), norm)
    best = x - ball.broadcast(radius * (2 * y - 1), x) * unit
    torch.testing.assert_close(model.score(found), model.score(best), rtol=1e-3, atol=1e-3)
    assert (ball.size(found - x, norm) <= radius * (1 + 1e-5)).all()
    assert (model.label(found) != y).tolist() == [False, False, True]


def gradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *SHAPE, generator=generator) / (number + 1) for number in range(count)]


def test_in_linf_its_steps_are_those_of_torchs_amsgrad_on_unit_gradients() -> None:
    moments, theirs = Moments(torch.zeros(3, *SHAPE), "linf"), torch.zeros(3, *SHAPE, requires_grad=True)
    adam, ours = torch.optim.Adam([theirs], lr=1.0, amsgrad=True, maximize=True), torch.zeros(3, *SHAPE)
    for gradient in gradients(6):
        ours += moments.direction(torch.arange(3), gradient)
        theirs.grad = ball.direction(gradient, "l2")
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_in_l2_its_steps_are_the_mean_of_the_unit_gradients_so_far() -> None:
    """By hand: weights 0.1 * 0.9^age, made to add up to 1."""
    moments, units = Moments(torch.zeros(3, *SHAPE), "l2"), []
    for number, gradient in enumerate(gradients(4)):
        units.append(ball.direction(gradient, "l2"))
        weights = [0.1 * 0.9 ** (number - age) for age in range(number + 1)]
        expected = sum(weight * unit for weight, unit in zip(weights, units, strict=True)) / sum(weights)
        found = moments.direction(torch.arange(3), gradient)
        torch.testing.assert_close(found, expected)
        assert (ball.size(found, "l2") <= 1 + 1e-6).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_sample_does_not_depend_on_its_batch_mates(norm: ball.Norm) -> None:
    model = Curved(16)
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    y, radius = model(x).argmax(1), 0.7 if norm == "l2" else 0.2
    together = padam(model, x, y, radius, norm=norm, steps=15, generator=generators([1, 2, 3, 4, 5]))
    alone = padam(model, x[3:4], y[3:4], radius, norm=norm, steps=15, generator=generators([4]))
    torch.testing.assert_close(together[3:4], alone, rtol=1e-3, atol=1e-3)


def test_how_steep_the_loss_is_changes_nothing() -> None:
    model = Curved(16)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)

    class Flat(Margin):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return 2**-30 * super().loss(logits, y)

    steep, flat = (padam(model, x, y, 1.0, objective=one, steps=10, random_start=False) for one in (Margin(), Flat()))
    assert torch.equal(flat, steep)


def test_noise_level_zero_changes_nothing_and_asks_nothing() -> None:
    model, x = Counting(Curved(16)), torch.randn(3, *SHAPE)
    assert torch.equal(padam(model, x, torch.zeros(3, dtype=torch.long), 0.0), x)
    assert model.samples == 0


def test_bounds_hold() -> None:
    model, x = Curved(16), torch.rand(4, *SHAPE)
    found = padam(model, x, model(x).argmax(1), 2.0, bounds=(0.0, 1.0), steps=10)
    assert found.min() >= 0 and found.max() <= 1


def test_bad_arguments_are_named() -> None:
    x, y = torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        padam(Curved(16), x, y, 1.0, steps=0)
    with pytest.raises(ValueError, match="norm must be"):
        padam(Curved(16), x, y, 1.0, norm="l1")  # type: ignore[arg-type]
