import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks import CrossEntropy, Margin, Objective, ball, pgd
from nnunet_ima.attacks.ball import NORMS, Norm
from tests.models import Counting, Curved, LinearModel, at_distances, generators, linear_model

SHAPES = [(5,), (3, 4), (2, 3, 4)]
DISTANCES = [0.5, 0.8, 1.1, 0.3, 2.0, 0.7, 0.9, 1.4]


def score_after(model: LinearModel, x: Tensor, epsilon: float | Tensor, norm: Norm) -> Tensor:
    """Closed form: the score of the true class falls by at most epsilon times the dual norm of w."""
    dual = model.weight.norm() if norm == "l2" else model.weight.abs().sum()
    return model.score(x).abs() - epsilon * dual


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("random_start", [False, True])
def test_reaches_the_largest_loss_within_the_ball(
    norm: Norm, shape: tuple[int, ...], batch: int, random_start: bool
) -> None:
    model = linear_model(shape)
    x = at_distances(model, shape, DISTANCES[:batch])
    y = model.label(x)
    found = pgd(
        model, x, y, 0.6, norm=norm, steps=40, random_start=random_start, generator=torch.Generator().manual_seed(0)
    )
    assert found.shape == x.shape
    assert (ball.size(found - x, norm) <= 0.6 * (1 + 1e-5)).all()
    best = functional.softplus(-score_after(model, x, 0.6, norm))
    torch.testing.assert_close(CrossEntropy().loss(model(found), y), best, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_the_perturbation_itself_is_the_closed_form(norm: Norm) -> None:
    model = linear_model((3, 4))
    x = at_distances(model, (3, 4), [0.5, 0.8])
    unit = ball.direction(model.weight.detach().view(1, 3, 4), norm)
    found = pgd(model, x, model.label(x), 0.6, norm=norm, random_start=False)
    torch.testing.assert_close(found[:1] - x[:1], -0.6 * unit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1:] - x[1:], 0.6 * unit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_one_full_step_without_random_start_is_fgsm(norm: Norm) -> None:
    model, x = Curved(6), torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
    step = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    found = pgd(model, x, y, 0.01, norm=norm, steps=1, alpha=1, random_start=False)
    torch.testing.assert_close(found, x + 0.01 * step)


@pytest.mark.parametrize("random_start", [False, True])
def test_noise_level_zero_returns_the_sample_itself(random_start: bool) -> None:
    model, x = Curved(4), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    counting = Counting(model)
    found = pgd(counting, x, torch.zeros(3, dtype=torch.long), 0.0, random_start=random_start, bounds=(-0.1, 0.1))
    assert torch.equal(found, x)
    assert counting.samples == 0


def test_each_sample_has_its_own_noise_level_and_zero_stays_put() -> None:
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [0.5, 0.8, 1.1, 0.3])
    epsilon = torch.tensor([0.0, 0.2, 0.0, 3.0])
    found = pgd(model, x, model.label(x), epsilon, generator=torch.Generator().manual_seed(0), steps=40)
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    torch.testing.assert_close(ball.size(found - x, "l2"), epsilon, rtol=1e-3, atol=0)
    left = model.score(found) * (2 * model.label(x) - 1)
    torch.testing.assert_close(left, score_after(model, x, epsilon, "l2"), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_intensities_stay_within_bounds(norm: Norm) -> None:
    model = LinearModel(torch.tensor([1.0, 1.0, -1.0]))
    x = torch.tensor([[0.1, 0.9, 0.05], [0.1, 0.2, 0.9]])
    found = pgd(model, x, model.label(x), 0.5, norm=norm, bounds=(0.0, 1.0), generator=torch.Generator().manual_seed(0))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (ball.size(found - x, norm) <= 0.5 * (1 + 1e-5)).all()
    unbounded = pgd(model, x, model.label(x), 0.5, norm=norm, generator=torch.Generator().manual_seed(0))
    assert unbounded.min() < 0


class Bump(Objective):
    """The loss is largest where the sum of the image is 0.5."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -(logits - 0.5).square().flatten(1).sum(1)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.ones(len(y), dtype=torch.bool)


def test_the_best_point_of_the_path_is_kept_not_the_last() -> None:
    # Steps of 0.45 from 0: 0.45, 0.9, 0.45, 0.9.
    found = pgd(
        lambda x: x, torch.zeros(1, 1), torch.zeros(1), 1.0, objective=Bump(), steps=4, alpha=1.8, random_start=False
    )
    assert found.item() == pytest.approx(0.45)


def test_the_start_counts_as_a_point_of_the_path() -> None:
    x = torch.full((1, 1), 0.4)
    found = pgd(lambda x: x, x, torch.zeros(1), 1.0, objective=Bump(), steps=1, alpha=1, random_start=False)
    assert torch.equal(found, x)


def test_the_last_point_counts_too() -> None:
    counting = Counting(lambda x: x)
    x = torch.zeros(1, 1)
    found = pgd(counting, x, torch.zeros(1), 0.4, objective=Bump(), steps=4, alpha=1, random_start=False)
    assert found.item() == pytest.approx(0.4)
    assert counting.batches == [1] * 5


class Steps(Objective):
    """The loss grows forever; badness knows only right (-1) and wrong (0)."""

    worst = 0.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0]

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0] < 0.5

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        return -self.correct(logits, y).float()


def test_a_sample_stops_where_nothing_can_get_worse() -> None:
    # Steps of 0.2 of the radius: the first sample is wrong after 3, the second never.
    counting = Counting(lambda x: x)
    x = torch.tensor([[0.0], [-5.0]])
    found = pgd(counting, x, torch.zeros(2), 1.0, objective=Steps(), steps=5, alpha=1, random_start=False)
    torch.testing.assert_close(found, torch.tensor([[0.6], [-4.0]]))
    assert counting.batches == [2, 2, 2, 2, 1, 1]


class FlatBadness(Bump):
    """Every point is equally bad, and the loss alone tells them apart."""

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(len(y))


@pytest.mark.parametrize(("alpha", "best"), [(1.8, 0.45), (1.0, 0.5)], ids=["met early", "met later"])
def test_equal_badness_is_decided_by_the_larger_loss(alpha: float, best: float) -> None:
    found = pgd(
        lambda x: x,
        torch.zeros(1, 1),
        torch.zeros(1),
        1.0,
        objective=FlatBadness(),
        steps=4,
        alpha=alpha,
        random_start=False,
    )
    assert found.item() == pytest.approx(best)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("objective", [CrossEntropy(), Margin()])
def test_a_sample_is_attacked_alike_alone_in_a_batch_and_in_another_order(norm: Norm, objective: Objective) -> None:
    model, x = Curved(6), torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    y, epsilon, seeds = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0.1, 0.2, 0.0, 0.4, 0.5]), [1, 2, 3, 4, 5]

    def attack(rows: list[int]) -> Tensor:
        return pgd(
            model,
            x[rows],
            y[rows],
            epsilon[rows],
            objective=objective,
            norm=norm,
            steps=5,
            generator=generators([seeds[row] for row in rows]),
        )

    together = attack([0, 1, 2, 3, 4])
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(attack(order), together[order], rtol=1e-4, atol=1e-5)
    for row in range(5):
        torch.testing.assert_close(attack([row])[0], together[row], rtol=1e-4, atol=1e-5)


def test_a_generator_makes_the_attack_reproducible() -> None:
    model, x, y = Curved(4), torch.zeros(3, 4), torch.tensor([0, 1, 2])
    first, again, other = (
        pgd(model, x, y, 0.3, steps=2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_zero_gradient_leaves_the_sample_where_it_is() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(3, dtype=torch.long)

    def flat(x: Tensor) -> Tensor:
        return x[:, :2] * 0

    assert torch.equal(pgd(flat, x, y, 1.0, random_start=False), x)
    started = pgd(flat, x, y, 1.0, generator=torch.Generator().manual_seed(1))
    start = ball.random_point(x, torch.ones(3), "l2", torch.Generator().manual_seed(1))
    torch.testing.assert_close(started, x + start)


def test_the_margin_loss_still_climbs_where_cross_entropy_is_flat() -> None:
    model = LinearModel(torch.tensor([300.0, 0.0]))
    x = torch.tensor([[1.0, 0.0]])
    y = torch.tensor([1])
    assert torch.equal(pgd(model, x, y, 2.0, random_start=False), x)
    broken = pgd(model, x, y, 2.0, objective=Margin(), random_start=False)
    torch.testing.assert_close(broken, torch.tensor([[-1.0, 0.0]]))


def test_a_loss_that_is_not_a_number_never_yields_one() -> None:
    def root(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0].sqrt(), torch.zeros(len(x))], 1)

    x = torch.tensor([[0.25], [0.25]])
    found = pgd(root, x, torch.tensor([0, 1]), 1.0, random_start=False)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1], torch.tensor([1.25]))


def test_the_caller_may_have_switched_gradients_off() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5])
    with torch.no_grad():
        found = pgd(model, x, model.label(x), 1.0, random_start=False)
        assert not torch.is_grad_enabled()
    assert not found.requires_grad
    assert model.label(found) != model.label(x)


def test_the_given_tensors_are_left_as_they_are() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5, 0.6]).requires_grad_()
    before = x.detach().clone()
    pgd(model, x, model.label(x), 1.0)
    assert torch.equal(x, before)
    assert x.grad is None


def test_double_precision_images_stay_double() -> None:
    model = linear_model((4,)).double()
    x = at_distances(linear_model((4,)), (4,), [0.5, 0.6]).double()
    assert pgd(model, x, model.label(x), 1.0, generator=torch.Generator().manual_seed(0)).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be"),
        ({"epsilon": math.nan}, "epsilon must be"),
        ({"epsilon": math.inf}, "epsilon must be"),
        ({"epsilon": torch.ones(2)}, "epsilon must be"),
        ({"epsilon": 1.0, "norm": "l1"}, "norm must be"),
        ({"epsilon": 1.0, "steps": 0}, "steps must be"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    x = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=message):
        pgd(Curved(4), x, torch.zeros(3, dtype=torch.long), **arguments)  # type: ignore[arg-type]
