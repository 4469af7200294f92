"""Square and SPSA: no gradient is asked for, the ball holds, and they find what is there to find."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnunet_ima.attacks import ball, spsa, square
from nnunet_ima.attacks.objective import Margin
from nnunet_ima.attacks.square import _bumps, _side
from tests.models import Counting, Curved, at_distances, generators, linear_model

SHAPE = (2, 6, 6)


class Steps(torch.nn.Module):
    """A linear model behind a staircase: its gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear_model(SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        # The staircase has no gradient at all, so that asking for one fails.
        logits: Tensor = self.linear(torch.round(x.detach() * 20) / 20)
        return logits


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("attack", [square, spsa])
def test_what_has_no_gradient_is_crossed_all_the_same(attack: Callable[..., Tensor], norm: ball.Norm) -> None:
    model = Steps()
    x = at_distances(model.linear, SHAPE, [0.2, 0.1], norm)
    y = model(x).argmax(1)
    radius = torch.tensor([1.5, 1.5] if norm == "l2" else [0.4, 0.4])
    options = {"samples": 256, "steps": 10, "probe": 0.1} if attack is spsa else {"steps": 300}
    found = attack(model, x, y, radius, objective=Margin(), norm=norm, generator=generators([1, 2]), **options)
    assert (model(found).argmax(1) != y).all()
    assert (ball.size(found - x, norm) <= radius * (1 + 1e-5)).all()


@pytest.mark.parametrize(("shape", "share"), [(SHAPE, 0.55), ((1, 5, 5, 5), 0.45)], ids=["image", "volume"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_square_comes_near_the_best_point_of_a_linear_model(
    norm: ball.Norm, shape: tuple[int, ...], share: float
) -> None:
    """Less near in a volume, whose smallest cube has three times as many voxels as the square has pixels."""
    model = linear_model(shape)
    x = at_distances(model, shape, [1.0], norm)
    y = model.label(x)
    found = square(model, x, y, 0.5, objective=Margin(), norm=norm, steps=3000, generator=generators([3]))
    moved = (model.score(found) - model.score(x)).abs() / (model.score(x).abs() / 1.0)
    assert 0.5 * share <= moved.item() <= 0.5 * (1 + 1e-4)


def test_spsa_estimates_the_gradient() -> None:
    """Of a linear model in one step of full length: near the steepest point."""
    model = linear_model((1, 4, 4))
    x = at_distances(model, (1, 4, 4), [1.0])
    found = spsa(model, x, model.label(x), 0.5, objective=Margin(), steps=1, alpha=1.0, samples=4096)
    moved = (model.score(found) - model.score(x)).abs() / model.weight.norm()
    assert 0.95 * 0.5 <= moved.item() <= 0.5 * (1 + 1e-4)


@pytest.mark.parametrize("attack", [square, spsa])
def test_a_sample_does_not_depend_on_its_batch_mates(attack: Callable[..., Tensor]) -> None:
    model = Curved(72)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    options = {"samples": 8} if attack is spsa else {}
    together = attack(model, x, y, 0.7, steps=6, generator=generators([1, 2, 3]), **options)
    alone = attack(model, x[1:2], y[1:2], 0.7, steps=6, generator=generators([2]), **options)
    torch.testing.assert_close(together[1:2], alone)


def test_square_asks_once_per_step_and_stops_where_nothing_is_left() -> None:
    class Easy(Margin):
        worst = -1e9

    model = Counting(Curved(72))
    x = torch.randn(2, *SHAPE)
    y = torch.zeros(2, dtype=torch.long)
    square(model, x, y, 1.0, steps=7)
    assert model.batches == [2] * 7
    model.batches.clear()
    square(model, x, y, 1.0, objective=Easy(), steps=7)
    assert model.batches == [2]


@pytest.mark.parametrize("side", [1, 2, 3, 7, 8])
def test_bumps_have_norm_one_and_two_signs(side: int) -> None:
    bumps = _bumps(torch.tensor([0, 1]), side, torch.empty(1, 1, side, side))
    assert bumps.shape == (2, 1, side, side) and bumps.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1])
    assert side == 1 or ((bumps.amin((1, 2, 3)) < 0).all() and (bumps.amax((1, 2, 3)) > 0).all())
    torch.testing.assert_close(bumps[1, 0], bumps[0, 0].T)


def test_bumps_of_a_volume_lie_along_each_axis() -> None:
    bumps = _bumps(torch.tensor([0, 1, 2]), 6, torch.empty(1, 1, 6, 6, 6))
    assert bumps.shape == (3, 1, 6, 6, 6) and bumps.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    for axis, bump in enumerate(bumps[:, 0]):
        halves = bump.split(3, axis)
        assert (halves[0] > 0).all() and (halves[1] < 0).all()


def test_squares_shrink_and_fit_the_image() -> None:
    sides = [_side(progress, torch.Size((1, 1, 30, 20))) for progress in (0, 0.01, 0.1, 0.5, 0.9)]
    assert _side(0, torch.Size((1, 1, 30, 20, 40))) == 20 and _side(0.9, torch.Size((1, 1, 30, 20, 40))) == 3
    assert sides[0] == 20 and sides == sorted(sides, reverse=True) and sides[-1] >= 1


def test_bad_arguments_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"x must be images \(N, C, H, W\) or volumes \(N, C, Z, H, W\), got .* \(1, 4\)"
    ):
        square(Curved(4), torch.zeros(1, 4), torch.zeros(1, dtype=torch.long), 1.0)
    x, y = torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="one per sample"):
        square(Curved(72), x, y, 1.0, generator=generators([1]))
    with pytest.raises(ValueError, match="samples at least 2"):
        spsa(Curved(72), x, y, 1.0, samples=1)
