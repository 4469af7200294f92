"""SegPGD and CosPGD against their formulas, pixel by pixel."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks import pgd
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.weighted import CosineObjective, CosPGDObjective, SegPGDObjective

IGNORE = 3


def _batch() -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 4, 5) and label maps with ignored and outside pixels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (2, 1, 4, 5), generator=generator)
    y[0, 0, 0, 0] = -1
    return torch.randn(2, 3, 4, 5, generator=generator), y


def _by_hand(logits: Tensor, y: Tensor, weigh: object) -> list[float]:
    found = []
    for output, labels in zip(logits, y[:, 0], strict=True):
        terms = []
        for row in range(4):
            for column in range(5):
                label = int(labels[row, column])
                if label not in (-1, IGNORE):
                    pixel = output[:, row, column]
                    terms.append(weigh(pixel, label) * -pixel.log_softmax(0)[label])  # type: ignore[operator]
        found.append(float(torch.stack(terms).mean()))
    return found


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_segpgd_moves_its_weight_from_correct_to_wrong_pixels(progress: float) -> None:
    logits, y = _batch()

    def weigh(pixel: Tensor, label: int) -> float:
        return 1 - progress / 2 if int(pixel.argmax()) == label else progress / 2

    objective = SegPGDObjective(2, ignore_label=IGNORE).at(progress)
    assert objective.loss(logits, y).tolist() == pytest.approx(_by_hand(logits, y, weigh), rel=1e-5)


def test_cospgd_weighs_by_the_cosine_to_the_reference() -> None:
    logits, y = _batch()

    def weigh(pixel: Tensor, label: int) -> Tensor:
        probability = pixel.softmax(0)
        cosine: Tensor = probability[label] / probability.norm()
        return cosine

    assert CosPGDObjective(2, ignore_label=IGNORE).loss(logits, y).tolist() == pytest.approx(
        _by_hand(logits, y, weigh), rel=1e-5
    )


def test_regions_weigh_each_region_on_its_own() -> None:
    logits = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    y = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(2)) > 0.5
    probability = torch.stack([logits.sigmoid(), 1 - logits.sigmoid()], -1)
    truth = torch.stack([y, ~y], -1).float()
    weight = ((probability * truth).sum(-1) / probability.norm(dim=-1)).mean(1)
    pixel = functional.binary_cross_entropy_with_logits(logits, y.float(), reduction="none").mean(1)
    found = CosPGDObjective(2, regions=True).loss(logits, y)
    assert found.item() == pytest.approx((weight * pixel).mean().item(), rel=1e-5)
    right = ((logits > 0) == y).all(1)
    expected = (torch.where(right, 0.75, 0.25) * pixel).mean().item()
    assert SegPGDObjective(2, regions=True).at(0.5).loss(logits, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", [SegPGDObjective(2), CosPGDObjective(2)], ids=["segpgd", "cospgd"])
def test_weights_are_constants_for_the_gradient(objective: SegmentationObjective) -> None:
    """The gradient is that of cross-entropy, pixel by pixel, times the weight: its sign never changes."""
    logits, y = _batch()
    y = y.clamp(0, 2)
    logits.requires_grad_()
    own = torch.autograd.grad(objective.at(0.4).loss(logits, y).sum(), logits)[0]
    plain = torch.autograd.grad(functional.cross_entropy(logits, y[:, 0], reduction="sum"), logits)[0]
    assert (own * plain >= 0).all() and own.abs().sum() > 0


@pytest.mark.parametrize("objective", [SegPGDObjective(2), CosPGDObjective(2)], ids=["segpgd", "cospgd"])
def test_they_lower_dice_more_than_random_noise(objective: SegmentationObjective) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    x = torch.randn(4, 1, 12, 12)
    y = network(x).argmax(1, keepdim=True)
    noisy = pgd(network, x, y, 2.0, objective=objective, steps=10, generator=torch.Generator().manual_seed(1))
    random = x + 2.0 * torch.nn.functional.normalize(torch.randn(4, 144), dim=1).view_as(x)
    with torch.no_grad():
        attacked, control, clean = (objective.slice_dice(network(images), y).mean() for images in (noisy, random, x))
    assert clean == 1 and attacked < control
    assert ((noisy - x).flatten(1).norm(dim=1) <= 2.0 * (1 + 1e-5)).all()


def test_padam_cos_is_one_minus_the_cosine_of_the_logits_with_the_reference() -> None:
    logits, y = _batch()

    def over_cross_entropy(pixel: Tensor, label: int) -> Tensor:
        loss: Tensor = (1 - pixel[label] / pixel.norm()) / -pixel.log_softmax(0)[label]
        return loss

    found = CosineObjective(2, ignore_label=IGNORE).loss(logits, y)
    assert found.tolist() == pytest.approx(_by_hand(logits, y, over_cross_entropy), rel=1e-5)


def test_padam_cos_of_regions_has_a_slope_where_their_logits_have_a_sign_only() -> None:
    """Of one region of probability p whose reference is inside: 1 - p / sqrt(p^2 + (1 - p)^2)."""
    logits = torch.tensor([0.5, -2.0]).view(2, 1, 1, 1).requires_grad_()
    loss = CosineObjective(1, regions=True).loss(logits, torch.ones(2, 1, 1, 1))
    p = logits.detach().sigmoid().flatten()
    torch.testing.assert_close(loss, 1 - p / (p**2 + (1 - p) ** 2).sqrt())
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert (slope < 0).all()
