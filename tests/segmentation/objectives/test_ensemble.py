"""SEA's losses against numbers computed by hand, and the attack that makes a class vanish."""

import math

import pytest
import torch
from torch.nn import functional

from nnunet_ima.attacks import pgd
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import (
    STRONG,
    BalancedMaskedCrossEntropy,
    JensenShannon,
    MaskedCrossEntropy,
    SoftDice,
)
from nnunet_ima.segmentation.objectives.weighted import VanishObjective

LABELS = torch.tensor([[[[0, 0, 0, 1]]]])
LOGITS = torch.tensor([[[[3.0, 2.0, -1.0, 0.5]], [[0.0, 0.0, 1.0, 1.5]]]])
"""Pixels 0, 1 and 3 are right, pixel 2 is wrong."""


def _cross_entropy() -> torch.Tensor:
    return functional.cross_entropy(LOGITS, LABELS[:, 0], reduction="none")[0, 0]


def test_masked_cross_entropy_leaves_wrong_pixels_out() -> None:
    pixel = _cross_entropy()
    expected = (pixel[0] + pixel[1] + pixel[3]) / 4
    assert MaskedCrossEntropy(1).loss(LOGITS, LABELS).item() == pytest.approx(expected.item())


def test_balanced_each_class_has_the_same_weight() -> None:
    pixel = _cross_entropy()
    expected = (pixel[0] / 3 + pixel[1] / 3 + pixel[3] / 1) * 4 / 4
    assert BalancedMaskedCrossEntropy(1).loss(LOGITS, LABELS).item() == pytest.approx(expected.item())


def test_jensen_shannon_by_its_definition_and_bounded() -> None:
    p = LOGITS.softmax(1)[0, :, 0]
    q = functional.one_hot(LABELS[0, 0, 0], 2).T.float()
    m = (p + q) / 2
    divergence = 0.5 * (p * (p / m).log()).sum(0) + 0.5 * torch.where(q > 0, (q.clamp_min(1e-9) / m).log(), 0.0).sum(0)
    assert JensenShannon(1).loss(LOGITS, LABELS).item() == pytest.approx(divergence.mean().item(), rel=1e-5)
    wrong = torch.stack([-100 * torch.ones(1, 4), 100 * torch.ones(1, 4)])[None].repeat(1, 1, 1, 1)
    assert JensenShannon(1).loss(wrong, torch.zeros_like(LABELS)).item() == pytest.approx(math.log(2))


def test_soft_dice_by_hand() -> None:
    p = LOGITS.softmax(1)[0, 1, 0]
    assert SoftDice(1).loss(LOGITS, LABELS).item() == pytest.approx((-2 * p[3] / (p.sum() + 1)).item(), rel=1e-4)


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("regions", [False, True])
def test_gradients_are_those_of_finite_differences(name: str, regions: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4)
    y = torch.randint(0, 2, (2, 4, 4, 4)) if regions else torch.randint(-1, 3, (2, 1, 4, 4))
    objective = STRONG[name](3 if regions else 2, regions=regions)
    point = logits.clone().requires_grad_(True)
    gradient = torch.autograd.grad(objective.loss(point, y).sum(), point)[0]
    direction = torch.randn_like(logits)
    ahead, behind = (objective.loss(logits + step * direction, y).sum().double() for step in (1e-3, -1e-3))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-3, rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("name", STRONG)
def test_pixels_that_do_not_count_have_no_say(name: str) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 3, 4, 4)
    y = torch.randint(0, 3, (1, 1, 4, 4))
    y[..., 0] = 3
    y[..., 1] = -1
    objective = STRONG[name](2, ignore_label=3)
    other = logits.clone()
    other[..., :2] += 5 * torch.randn(1, 3, 4, 2)
    torch.testing.assert_close(objective.loss(logits, y), objective.loss(other, y))


@pytest.mark.parametrize("regions", [False, True])
def test_the_chosen_class_vanishes(regions: bool) -> None:
    """Logits are the image itself: all of the class can be taken away, and no more of the others than need be."""
    y = torch.zeros(1, 1, 4, 4, dtype=torch.long)
    y[..., :2], y[..., 2] = 1, 2
    reference = torch.cat([y == 1, y == 2], 1)
    x = torch.cat([torch.zeros(1, 1, 4, 4), 2 * reference.float()], 1)
    if regions:
        x, y = 2 * reference.float() - 1, reference
    objective = VanishObjective(2, regions=regions).making_vanish(0)
    found = pgd(lambda image: image, x, y, 8.0, objective=objective, steps=50, random_start=False)
    counts = objective.counts(found, y)[0]
    assert counts[0, 0] == 0 and counts[1].tolist() == [4, 0, 0]
    assert objective.badness(found, y).item() == objective.worst == 0
    assert objective.badness(x, y).item() == -1


MASKED = [MaskedCrossEntropy, BalancedMaskedCrossEntropy]


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("kind", MASKED)
def test_what_is_tracked_rises_where_a_pixel_flips_and_the_masked_loss_falls(
    kind: type[SegmentationObjective], regions: bool
) -> None:
    """Judged by its own loss, Auto-PGD would go back to the point before the flip."""
    before = torch.tensor([2.0, 0.1]).view(1, 1, 1, 2)
    after = torch.tensor([2.0, -0.1]).view(1, 1, 1, 2)
    y = torch.ones(1, 1, 1, 2, dtype=torch.long)
    if not regions:
        before, after = (torch.cat([torch.zeros_like(lead), lead], 1) for lead in (before, after))
    objective = kind(1, regions=regions)
    losses = [objective.loss(logits, y) for logits in (before, after)]
    tracked = [objective.tracked(logits, y, loss) for logits, loss in zip((before, after), losses, strict=True)]
    assert losses[1] < losses[0] and tracked[1] > tracked[0]
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.1))) / 2
    assert tracked[1].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name, kind in STRONG.items() if kind not in MASKED])
def test_the_other_losses_are_judged_by_themselves(name: str) -> None:
    objective = STRONG[name](1)
    loss = objective.loss(LOGITS, LABELS)
    assert objective.tracked(LOGITS, LABELS, loss) is loss
