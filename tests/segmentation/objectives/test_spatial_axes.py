"""Objectives know no number of spatial axes: a volume counts as a slice with the same pixels does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import STRONG
from nnunet_ima.segmentation.objectives.weighted import CosPGDObjective, SegPGDObjective, VanishObjective

VOLUME, SLICE = (3, 4, 5), (3, 20)
KINDS = [SegmentationObjective, SegPGDObjective, CosPGDObjective, VanishObjective, *STRONG.values()]
FIGURES = ["loss", "counts", "slice_dice", "correct", "badness", "lead"]


def sample(regions: bool) -> tuple[Tensor, Tensor]:
    """Logits and references of two volumes with two foreground classes and some pixels to ignore."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 2 if regions else 3, *VOLUME, generator=generator)
    if regions:
        return logits, torch.rand(2, 3, *VOLUME, generator=generator) < 0.3
    return logits, torch.randint(-1, 4, (2, 1, *VOLUME), generator=generator).to(torch.int16)


@pytest.mark.parametrize("regions", [False, True], ids=["labels", "regions"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_volume_counts_as_a_slice_of_the_same_pixels(kind: Any, regions: bool) -> None:
    objective = kind(2, regions, None if regions else 3)
    logits, y = sample(regions)
    flat, flat_y = logits.reshape(2, -1, *SLICE), y.reshape(2, -1, *SLICE)
    for figure in FIGURES:
        whole, parts = getattr(objective, figure)(logits, y), getattr(objective, figure)(flat, flat_y)
        assert torch.allclose(whole, parts, rtol=1e-5, equal_nan=True), figure
    assert torch.allclose(objective.tracked(logits, y, logits.sum()), objective.tracked(flat, flat_y, logits.sum()))
    assert torch.allclose(
        objective.log_probabilities(logits).flatten(-3), objective.log_probabilities(flat).flatten(-2), rtol=1e-5
    )
    for whole, parts in zip(objective.targets(y), objective.targets(flat_y), strict=True):
        assert torch.equal(whole.flatten(-3), parts.flatten(-2))
