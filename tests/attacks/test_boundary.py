import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks import Boundary, ball, bpgd
from nnunet_ima.attacks.ball import NORMS, Norm
from tests.models import Counting, Curved, LinearModel, at_distances, generators, linear_model

SHAPES = [(5,), (3, 4), (2, 3, 4)]
# With margin 1, 20 steps and alpha 4 a step is 0.2 long.
DISTANCES = [0.1, 0.3, 0.55, 0.7, 0.95, 1.05, 3.0]
FIRST_WRONG = [1, 2, 3, 4, 5, 20, 20]


def assert_same(one: Boundary, other: Boundary, rows: list[int] | slice = slice(None)) -> None:
    for name in ("x", "last_correct", "distance"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name)[rows], rtol=1e-4, atol=1e-5)
    for name in ("correct", "crossed", "steps"):
        assert getattr(one, name).tolist() == getattr(other, name)[rows].tolist()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_finds_the_exact_distance_of_every_boundary_within_the_margin(norm: Norm, shape: tuple[int, ...]) -> None:
    model = linear_model(shape)
    x = at_distances(model, shape, DISTANCES, norm)
    found = bpgd(model, x, model.label(x), 1.0, norm=norm)
    assert found.crossed.tolist() == [d < 1 for d in DISTANCES]
    assert found.steps.tolist() == FIRST_WRONG
    exact = torch.tensor([d if d < 1 else 0.0 for d in DISTANCES])
    torch.testing.assert_close(found.distance, exact, rtol=0, atol=0.2 / 2**11 + 2e-6)
    torch.testing.assert_close(found.distance, ball.size(found.x - x, norm))
    assert torch.equal(found.x[~found.crossed], x[~found.crossed])


@pytest.mark.parametrize("bisections", [0, 1, 3, 6])
def test_every_bisection_halves_the_bracket(bisections: int) -> None:
    model = LinearModel(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[0.55, 0.0]])
    found = bpgd(model, x, model.label(x), 1.0, bisections=bisections)
    # The bracket is [0.4, 0.6] at first; the boundary lies at 0.55.
    width = 0.2 / 2**bisections
    low = 0.4 + math.floor((0.55 - 0.4) / width) * width
    assert found.distance.item() == pytest.approx(low + width / 2, abs=1e-6)
    assert ball.size(found.last_correct - x, "l2").item() == pytest.approx(low, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_last_correct_point_is_correct_and_half_a_bracket_from_the_middle(norm: Norm) -> None:
    model = linear_model((3, 4))
    x = at_distances(model, (3, 4), DISTANCES, norm)
    y = model.label(x)
    found = bpgd(model, x, y, 1.0, norm=norm, bisections=5)
    assert torch.equal(model.label(found.last_correct), y)
    gap = ball.size(found.x - found.last_correct, norm)[found.crossed]
    torch.testing.assert_close(gap, torch.full_like(gap, 0.2 / 2**6), rtol=1e-3, atol=1e-6)
    beyond = found.x + (found.x - found.last_correct)
    assert (model.label(beyond) != y)[found.crossed].all()


def test_where_nothing_crossed_the_last_correct_point_is_the_last_iterate() -> None:
    model = LinearModel(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[3.0, 0.0]])
    found = bpgd(model, x, model.label(x), 1.0)
    torch.testing.assert_close(found.last_correct, torch.tensor([[2.0, 0.0]]))
    assert torch.equal(found.x, x)


def test_each_sample_has_its_own_margin_and_margin_zero_never_crosses() -> None:
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [0.5, 0.5, 0.5, 0.001])
    found = bpgd(model, x, model.label(x), torch.tensor([0.4, 0.6, 2.0, 0.0]))
    assert found.crossed.tolist() == [False, True, True, False]
    assert found.steps.tolist() == [20, 5, 2, 0]
    assert torch.equal(found.last_correct[3], x[3])


def test_only_correct_samples_are_attacked() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.3, 0.3, 0.3, 0.3])
    y = model.label(x)
    y[[1, 2]] = 1 - y[[1, 2]]
    counting = Counting(model)
    found = bpgd(counting, x, y, 1.0)
    assert found.correct.tolist() == [True, False, False, True]
    assert found.crossed.tolist() == [True, False, False, True]
    assert found.steps.tolist() == [2, 0, 0, 2]
    assert torch.equal(found.x[1:3], x[1:3])
    assert torch.equal(found.last_correct[1:3], x[1:3])
    assert counting.batches == [4, 2, 2] + [2] * 10


def test_a_batch_without_a_correct_sample_costs_the_clean_pass_only() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.3, 0.4])
    counting = Counting(model)
    found = bpgd(counting, x, 1 - model.label(x), 1.0)
    assert counting.batches == [2]
    assert not found.crossed.any()


def test_samples_leave_when_they_cross_and_only_they_are_bisected() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.1, 0.3, 3.0])
    counting = Counting(model)
    bpgd(counting, x, model.label(x), 1.0, steps=5, alpha=1.0, bisections=4)
    assert counting.batches == [3, 3, 2, 1, 1, 1] + [2] * 4


def test_with_shared_clean_logits_a_crossing_at_step_3_costs_13_forwards_per_sample() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5, 0.55, 0.45]).requires_grad_()
    counting = Counting(model)
    found = bpgd(counting, x, model.label(x), 1.0, clean_logits=model(x))
    assert found.steps.tolist() == [3, 3, 3]
    assert found.crossed.all()
    assert counting.samples <= 13 * 3


@pytest.mark.parametrize("random_start", [False, True])
def test_shared_clean_logits_give_the_same_result_and_can_still_be_trained_on(random_start: bool) -> None:
    model = Curved(6)
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(x)
    y = logits.argmax(1)
    y[0] = (y[0] + 1) % 3
    expected = torch.autograd.grad(functional.cross_entropy(model(x), y), list(model.parameters()))

    shared, alone = (
        bpgd(
            model, x, y, 1.0, random_start=random_start, generator=torch.Generator().manual_seed(1), clean_logits=given
        )
        for given in (logits, None)
    )
    assert_same(shared, alone)
    assert shared.crossed.any()
    assert x.grad is None

    functional.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_that_is_wrong_already_is_bisected_against_the_clean_sample(norm: Norm) -> None:
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [0.05] * 32, norm)
    y = model.label(x)
    start = x + ball.random_point(x, torch.ones(32), norm, torch.Generator().manual_seed(4))
    wrong = model.label(start) != y
    assert 5 < int(wrong.sum()) < 27
    found = bpgd(
        model, x, y, 1.0, norm=norm, random_start=True, generator=torch.Generator().manual_seed(4), bisections=20
    )
    assert found.crossed.all()
    assert torch.equal(found.steps == 0, wrong)
    # On the segment from x to its start, f changes sign at the share f(x) / (f(x) - f(start)).
    share = (model.score(x) / (model.score(x) - model.score(start)))[wrong]
    torch.testing.assert_close(
        found.x[wrong], x[wrong] + share[:, None, None] * (start - x)[wrong], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_that_is_correct_is_where_the_steps_begin(norm: Norm) -> None:
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [0.6] * 16, norm)
    found = bpgd(model, x, model.label(x), 1.0, norm=norm, random_start=True, generator=generators(list(range(16))))
    assert found.crossed.all()
    assert (found.distance <= 1 + 1e-5).all()
    # Nothing is closer than the boundary itself; a path from elsewhere in the ball usually meets it farther away.
    assert (found.distance >= 0.6 - 1e-4).all()
    assert (found.distance > 0.65).any()
    assert model.distance(found.x, norm).max() < 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_no_boundary_point_lies_beyond_the_margin(norm: Norm, random_start: bool) -> None:
    model, x = Curved(6), torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    margin = torch.linspace(0.05, 1, 32)
    found = bpgd(
        model,
        x,
        model(x).argmax(1),
        margin,
        norm=norm,
        random_start=random_start,
        generator=torch.Generator().manual_seed(1),
    )
    assert 3 < int(found.crossed.sum()) < 32
    assert (found.distance <= margin * (1 + 1e-5)).all()
    # A boundary point: the two best classes of the network are (almost) level there.
    best = model(found.x).topk(2, 1).values[found.crossed]
    assert (best[:, 0] - best[:, 1]).max() < 0.02


@pytest.mark.parametrize("random_start", [False, True])
def test_intensities_stay_within_bounds(random_start: bool) -> None:
    model = LinearModel(torch.tensor([1.0, 1.0]), bias=-0.4)
    x = torch.tensor([[0.1, 0.9], [0.05, 0.6]])
    found = bpgd(
        model,
        x,
        model.label(x),
        2.0,
        bounds=(0.0, 1.0),
        random_start=random_start,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.crossed.all()
    for points in (found.x, found.last_correct):
        assert points.min() >= 0
        assert points.max() <= 1
    assert model.distance(found.x).max() < 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_a_sample_is_attacked_alike_alone_in_a_batch_and_in_another_order(norm: Norm, random_start: bool) -> None:
    model, x = Curved(6), torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    y[2] = (y[2] + 1) % 3
    margin = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.5, 0.7, 1.0, 2.0])

    def attack(rows: list[int]) -> Boundary:
        return bpgd(
            model,
            x[rows],
            y[rows],
            margin[rows],
            norm=norm,
            steps=6,
            random_start=random_start,
            generator=generators([10 + row for row in rows]),
        )

    together = attack(list(range(8)))
    assert 0 < int(together.crossed.sum()) < 8
    order = [5, 3, 0, 7, 2, 1, 6, 4]
    assert_same(attack(order), together, order)
    for row in range(8):
        assert_same(attack([row]), together, [row])


def test_a_zero_gradient_leaves_the_sample_uncrossed() -> None:
    def flat(x: Tensor) -> Tensor:
        return x[:, :2] * 0

    x = torch.ones(3, 4)
    found = bpgd(flat, x, torch.tensor([0, 0, 1]), 1.0)
    assert found.correct.tolist() == [True, True, False]
    assert not found.crossed.any()
    assert torch.equal(found.x, x)
    assert torch.equal(found.last_correct, x)


def test_the_caller_may_have_switched_gradients_off() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5])
    with torch.no_grad():
        found = bpgd(model, x, model.label(x), 1.0)
    assert found.crossed.all()
    assert not found.x.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -1.0}, "margin must be"),
        ({"margin": math.nan}, "margin must be"),
        ({"margin": torch.ones(4)}, "margin must be"),
        ({"margin": 1.0, "norm": "l1"}, "norm must be"),
        ({"margin": 1.0, "steps": 0}, "steps must be"),
        ({"margin": 1.0, "bisections": -1}, "bisections not negative"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bpgd(Curved(4), torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), **arguments)  # type: ignore[arg-type]
