"""Auto-PGD against closed forms, and its schedule."""

import pytest
import torch
from torch import Tensor

from nnunet_ima.attacks import ball, pgd
from nnunet_ima.attacks.apgd import SCHEDULE, _lengths, apgd, checkpoints
from nnunet_ima.attacks.objective import CrossEntropy, Margin, Objective
from tests.models import Counting, Curved, at_distances, generators, linear_model

SHAPE = (1, 4, 4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("schedule", [((1.0, 1.0),), SCHEDULE])
def test_on_a_linear_model_it_finds_the_steepest_point_of_the_ball(
    norm: ball.Norm, schedule: tuple[tuple[float, float], ...]
) -> None:
    model = linear_model(SHAPE)
    x = at_distances(model, SHAPE, [0.5, 2.0, 1.0], norm)
    radius = torch.tensor([0.4, 1.0, 2.5])
    y = model.label(x)
    found = apgd(model, x, y, radius, objective=Margin(), norm=norm, steps=30, schedule=schedule, random_start=False)
    unit = ball.direction(model.weight.view(SHAPE).expand_as(x), norm)
    best = x - ball.broadcast(radius * (2 * y - 1), x) * unit
    torch.testing.assert_close(model.score(found), model.score(best), rtol=1e-4, atol=1e-4)
    assert (ball.size(found - x, norm) <= radius * (1 + 1e-5)).all()
    assert (model.label(found) != y).tolist() == [False, False, True]


def test_it_looks_back_ever_more_often() -> None:
    """By hand: 0.22, then intervals 0.19, 0.16, ... not below 0.06."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize(("steps", "lengths"), [(100, [30, 30, 40]), (10, [3, 3, 4]), (1, [1, 1, 1])])
def test_phases_share_the_steps(steps: int, lengths: list[int]) -> None:
    assert _lengths(steps, SCHEDULE) == lengths


def test_it_is_no_weaker_than_pgd_on_a_curved_model() -> None:
    model = Curved(16)
    x = torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    losses = [
        CrossEntropy().loss(model(attack(model, x, y, 1.0, steps=40, random_start=False)), y).mean().item()
        for attack in (pgd, apgd)
    ]
    assert losses[1] >= losses[0] * 0.999


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    model = Curved(16)
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    together = apgd(model, x, y, 0.7, steps=20, schedule=SCHEDULE, generator=generators([1, 2, 3, 4, 5]))
    alone = apgd(model, x[3:4], y[3:4], 0.7, steps=20, schedule=SCHEDULE, generator=generators([4]))
    torch.testing.assert_close(together[3:4], alone, rtol=1e-3, atol=1e-3)


def test_noise_level_zero_changes_nothing_and_asks_nothing() -> None:
    model = Counting(Curved(16))
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(apgd(model, x, torch.zeros(3, dtype=torch.long), 0.0), x)
    assert model.samples == 0


def test_bounds_hold() -> None:
    model = Curved(16)
    x = torch.rand(4, 1, 4, 4)
    found = apgd(model, x, model(x).argmax(1), 2.0, bounds=(0.0, 1.0), steps=10)
    assert found.min() >= 0 and found.max() <= 1


def test_bad_arguments_are_named() -> None:
    x, y = torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match="schedule must end with the radius 1"):
        apgd(Curved(16), x, y, 1.0, schedule=((2.0, 1.0),))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        apgd(Curved(16), x, y, 1.0, steps=0)
    with pytest.raises(ValueError, match="norm must be"):
        apgd(Curved(16), x, y, 1.0, norm="l1")  # type: ignore[arg-type]


class Alternating(Objective):
    """A loss whose slope turns with every look, and a progress that always rises, or never."""

    def __init__(self, rise: float) -> None:
        self.looks, self.rise = 0, rise

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        self.looks += 1
        slope = 1.0 if self.looks % 2 else -1.0
        return slope * logits[:, 0]

    def tracked(self, logits: Tensor, y: Tensor, loss: Tensor) -> Tensor:
        return torch.full_like(loss, self.looks * self.rise)

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.full((len(logits),), float(self.looks))


def test_while_every_step_is_progress_no_step_is_halved() -> None:
    """On a line from -1 to 1: the iterates of steps of length 2 with momentum, worked out here."""
    seen: list[float] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.item())
        return x

    x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    apgd(model, x, y, 1.0, objective=Alternating(1.0), steps=10, random_start=False)
    expected, before = [0.0, 1.0], 0.0
    for number in range(1, 10):
        here = expected[-1]
        plain = min(max(here + 2 * (-1) ** number, -1), 1)
        expected.append(min(max(here + 0.75 * (plain - here) + 0.25 * (here - before), -1), 1))
        before = here
    assert seen == pytest.approx(expected)
    seen.clear()
    apgd(model, x, y, 1.0, objective=Alternating(-1.0), steps=10, random_start=False)
    # Without progress it goes back to where it began after two steps of ten, with half the step.
    assert seen[:4] == pytest.approx([0.0, 1.0, -0.25, 0.75])


class Peak(Objective):
    """On a line: the loss rises to the right, the sample is worst at the start."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0]

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        return -logits[:, 0].abs()


def test_a_smaller_radius_starts_at_the_worst_point_of_the_larger_one() -> None:
    seen: list[float] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.item())
        return x

    x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    found = apgd(model, x, y, 1.0, objective=Peak(), steps=6, schedule=((2.0, 0.5), (1.0, 0.5)), random_start=False)
    assert seen[:2] == [0.0, 2.0] and max(seen) == 2.0
    assert seen[4] == 0.0
    assert found.item() == 0.0


@pytest.mark.parametrize("schedule", [((1.0, 1.0),), SCHEDULE])
def test_a_start_is_pulled_into_the_first_ball(schedule: tuple[tuple[float, float], ...]) -> None:
    x, radius = torch.zeros(2, *SHAPE), schedule[0][0]
    model, y, start = Curved(16).eval(), torch.zeros(2, dtype=torch.long), ball.random_direction(x, generators([0, 1]))
    inside, far = (apgd(model, x, y, 1.0, steps=4, schedule=schedule, start=r * start) for r in (radius, 50.0))
    torch.testing.assert_close(inside, far, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(inside, apgd(model, x, y, 1.0, steps=4, schedule=schedule, start=-far))
