"""One structure alone: the model's own prediction of it, and the loss of the binary problem."""

import pytest
import torch

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective, dice_per_class
from nnunet_ima.segmentation.objectives.one_structure import OneStructure
from tests.segmentation.objectives.test_dice import label_maps, logits_of, region_masks


def wholes() -> dict[str, tuple[SegmentationObjective, torch.Tensor, torch.Tensor]]:
    """Objective, logits and references: labels, labels with an ignore label, regions with an ignore mask."""
    return {
        "labels": (SegmentationObjective(3), logits_of(4), label_maps(4)),
        "ignore": (SegmentationObjective(2, ignore_label=3), logits_of(3), label_maps(4)),
        "regions": (SegmentationObjective(2, True, 3), logits_of(2), region_masks(3)),
    }


@pytest.mark.parametrize("kind", ["labels", "ignore", "regions"])
@pytest.mark.parametrize("number", [0, 1])
def test_it_sees_what_the_whole_objective_sees_of_the_structure(kind: str, number: int) -> None:
    whole, logits, y = wholes()[kind]
    alone = OneStructure(whole, number)
    assert torch.equal(alone.counts(logits, y), whole.counts(logits, y)[:, number, None])
    dice = dice_per_class(whole.counts(logits, y))[:, number]
    shown = whole.reference(y)[0][:, number].flatten(1).any(1)
    assert torch.equal(alone.correct(logits, y), (dice > 0.6) & shown)


@pytest.mark.parametrize("kind", ["labels", "ignore", "regions"])
def test_its_loss_is_that_of_the_binary_problem(kind: str) -> None:
    whole, logits, y = wholes()[kind]
    reference, valid = whole.reference(y)
    probability = logits.sigmoid()[:, 1] if whole.regions else logits.softmax(1)[:, 2]
    inside = reference[:, 1]
    pixel = -torch.where(inside, probability, 1 - probability).log() * valid[:, 0]
    cross_entropy = pixel.flatten(1).sum(1) / valid.flatten(1).sum(1)
    seen = probability * valid[:, 0]
    overlap, total = (seen * inside).flatten(1).sum(1), seen.flatten(1).sum(1) + inside.flatten(1).sum(1)
    expected = cross_entropy - (2 * overlap + 1e-5) / (total + 1e-5)
    torch.testing.assert_close(OneStructure(whole, 1).loss(logits, y), expected)
