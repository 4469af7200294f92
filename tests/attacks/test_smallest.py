"""The smallest noise: exact on a linear classifier, never larger than what PGD needs, sample by sample."""

import pytest
import torch

from nnunet_ima.attacks import ball, pgd, smallest
from nnunet_ima.attacks.ball import NORMS, Norm
from nnunet_ima.attacks.objective import CrossEntropy
from nnunet_ima.attacks.smallest import onto_boundary
from tests.models import Curved, at_distances, linear_model

SHAPE = (1, 6, 5)
DISTANCES = [0.05, 0.3, 0.7, 1.0, 1.9]


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_classifier_it_is_the_distance(norm: Norm) -> None:
    model = linear_model(SHAPE)
    distances = DISTANCES if norm == "l2" else [one / 5 for one in DISTANCES]
    x = at_distances(model, SHAPE, distances, norm)
    found = smallest(model, x, model.label(x), 4 * distances[-1], norm=norm)
    size = ball.size(found - x, norm)
    assert torch.allclose(size, torch.tensor(distances), rtol=0.02)
    assert bool((model.label(found) != model.label(x)).all())


def test_what_is_wrong_already_or_too_far_stays_where_it_is() -> None:
    model = linear_model(SHAPE)
    x = at_distances(model, SHAPE, DISTANCES)
    y = model.label(x)
    y[0] = 1 - y[0]
    found = smallest(model, x, y, torch.tensor([4.0, 0.2, 4.0, 0.9, 0.0]))
    moved = (found != x).flatten(1).any(1)
    assert moved.tolist() == [False, False, True, False, False]


def curved() -> tuple[Curved, torch.Tensor, torch.Tensor]:
    model = Curved(30)
    x = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(3))
    return model, x, model(x).argmax(1)


def test_it_is_no_larger_than_what_pgd_needs() -> None:
    """The smallest radius at which PGD of 50 steps from 3 starts breaks a sample, by bisection to 1 %."""
    model, x, y = curved()
    low, high = torch.zeros(len(x)), torch.full((len(x),), 8.0)
    for _ in range(10):
        middle = (low + high) / 2
        wrong = torch.zeros(len(x), dtype=torch.bool)
        for seed in range(3):
            noisy = pgd(model, x, y, middle, steps=50, generator=torch.Generator().manual_seed(seed))
            wrong |= model(noisy).argmax(1) != y
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    found = smallest(model, x, y, 8.0)
    size = ball.size(found - x, "l2")
    broken = high < 8
    assert broken.sum() > 8 and torch.equal(model(found).argmax(1) != y, size > 0) and bool((size > 0)[broken].all())
    assert bool((size <= 1.05 * high)[broken].all()) and size[broken].mean() <= high[broken].mean()


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    model, x, y = curved()
    together = smallest(model, x, y, 8.0)
    alone = torch.cat([smallest(model, x[row : row + 1], y[row : row + 1], 8.0) for row in range(len(x))])
    # A walk along a boundary amplifies the rounding of another batch size; the sizes hardly change.
    assert torch.allclose(ball.size(together - x, "l2"), ball.size(alone - x, "l2"), rtol=0.02)


def test_more_steps_find_nearer_points() -> None:
    model, x, y = curved()
    sizes = [ball.size(smallest(model, x, y, 8.0, steps=steps) - x, "l2") for steps in (0, 50)]
    assert bool((sizes[1] <= sizes[0] + 1e-6).all()) and sizes[1].mean() < sizes[0].mean()


def test_intensities_stay_within_bounds() -> None:
    model, x, y = curved()
    x = x.clamp(-1, 1)
    y = model(x).argmax(1)
    found = smallest(model, x, y, 8.0, bounds=(-1.0, 1.0))
    assert found.min() >= -1 and found.max() <= 1 and (found != x).any()


def test_points_are_moved_onto_the_boundary() -> None:
    """From just before and from far behind it; a point that leads nowhere gives the sample."""
    model = linear_model(SHAPE)
    x = at_distances(model, SHAPE, [1.0, 1.0, 1.0])
    unit = model.weight.view(SHAPE) / model.weight.norm()
    signs = torch.tensor([-1.0, 1.0, -1.0]).view(-1, 1, 1, 1)
    point = x + signs * torch.tensor([0.99, 2.0, 0.2]).view(-1, 1, 1, 1) * unit
    found = onto_boundary(model, x, model.label(x), point, 5.0, CrossEntropy())
    assert torch.allclose(ball.size(found - x, "l2"), torch.tensor([1.0, 1.0, 0.0]), atol=2e-3)
    assert (model.label(found) != model.label(x)).tolist() == [True, True, False]


def test_bad_numbers_are_refused() -> None:
    model, x, y = curved()
    with pytest.raises(ValueError, match="steps must not be negative, got -1"):
        smallest(model, x, y, 1.0, steps=-1)
    with pytest.raises(ValueError, match="largest must be finite"):
        smallest(model, x, y, -1.0)
