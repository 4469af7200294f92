"""Scores that need no reference, case by case: do models agree, and how little noise changes the prediction?

Dice between predictions is that of all voxels of a case, at the resolution that nnU-Net preprocesses to: mean over the
foreground classes that occur in either; 1 where neither finds anything.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.evaluation.noises import Noise, Settings, smallest_noise
from nnunet_ima.evaluation.panel import Panel
from nnunet_ima.evaluation.under_noise import stacked, within_memory
from nnunet_ima.metrics.indices import dice_index, mean_dice
from nnunet_ima.segmentation.cases.slices import Slice, batches
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective, overlap_counts

SCORES = {
    "pairwise_dice": "mean Dice between the predictions of each two ensemble members (%)",
    "plain_dice": "Dice between the prediction and that of the plain model (%)",
    "smallest_noise": "smallest noise that changes the prediction (noise level)",
}
"""By name. A smaller value says that the prediction is more likely wrong."""


@dataclass(frozen=True)
class Search:
    """For the smallest noise. largest: L2 norm (SD) at which it ends; slices: of a case, spread evenly over those in
    which the model finds something; steps: see `Settings`."""

    largest: float
    slices: int
    steps: int = 100
    seed: int = 0

    @property
    def noise(self) -> Noise:
        return smallest_noise(Settings(steps=self.steps, seed=self.seed))


def examined(panel: Panel, slices: Sequence[Slice], batch_size: int, search: Search | None) -> dict[str, Any]:
    """What the panel says of one case, as JSON: counts (classes, 3) of the prediction against the "reference", of each
    pair of members ("pairs") and against the "plain" prediction; number of slices "found" something in; and the
    smallest "noise" of the slices looked at, null where there is none up to the largest."""
    ordered = [item for batch in batches(slices, batch_size) for item in batch]
    parts = [part for batch in batches(slices, batch_size) for part in within_memory(partial(_agreement, panel), batch)]
    found = torch.cat([part.pop("found") for part in parts])
    record: dict[str, Any] = {name: torch.stack([part[name] for part in parts]).sum(0).tolist() for name in parts[0]}
    chosen = [ordered[row] for row in spread(found.nonzero().flatten().tolist(), search.slices if search else 0)]
    noise = _smallest(panel, chosen, batch_size, search) if search else None
    return {**record, "found": int(found.sum()), "noise": noise}


def spread(rows: Sequence[int], count: int) -> list[int]:
    """At most so many of the rows, evenly spread."""
    if len(rows) <= count:
        return list(rows)
    # The middle of each of so many equal parts.
    return [rows[(2 * part + 1) * len(rows) // (2 * count)] for part in range(count)]


@torch.no_grad()
def _agreement(panel: Panel, batch: Sequence[Slice]) -> dict[str, Tensor]:
    x, y, _ = stacked(panel.target, batch)
    objective, network = panel.target.objective(), panel.target.network
    logits = network(x)
    own = objective.prediction(logits)
    members = [own if member is network else objective.prediction(member(x)) for member in panel.members]
    pairs = [overlap_counts(first, second).sum(0) for first, second in combinations(members, 2)]
    result = {"reference": objective.counts(logits, y).sum(0), "found": own.flatten(1).any(1)}
    if pairs:
        result["pairs"] = torch.stack(pairs)
    if panel.plain is not None:
        result["plain"] = overlap_counts(own, objective.prediction(panel.plain(x))).sum(0)
    return {name: value.cpu() for name, value in result.items()}


def own_reference(objective: SegmentationObjective, logits: Tensor) -> Tensor:
    """The prediction of these logits as a reference of the same objective, which it meets with a Dice of 1."""
    if not objective.regions:
        return logits.argmax(1, keepdim=True)
    found = objective.prediction(logits)
    # No pixel is ignored.
    return torch.cat([found, torch.zeros_like(found[:, :1])], 1)


def _smallest(panel: Panel, slices: Sequence[Slice], batch_size: int, search: Search) -> list[float | None]:
    """Of each slice: the noise at which the Dice of the prediction with itself without noise falls to 60 %."""
    sizes = [
        size
        for batch in batches(slices, batch_size)
        for part in within_memory(partial(_sizes, panel, search), batch)
        for size in part
    ]
    # The slice itself comes back where nothing is found: without noise its prediction is its own.
    return [round(size, 5) if size > 0 else None for size in sizes]


def _sizes(panel: Panel, search: Search, batch: Sequence[Slice]) -> list[float]:
    x, _, names = stacked(panel.target, batch)
    with torch.no_grad():
        y = own_reference(panel.target.objective(), panel.target.network(x))
    noisy = search.noise(panel.target, x, y, search.largest, [f"{search.seed} {name}" for name in names])
    sizes: list[float] = ball.size(noisy - x, "l2").tolist()
    return sizes


def corrupted(panel: Panel, slices: Sequence[Slice], noise: Noise, severity: float, seed: int) -> list[Slice]:
    """The slices with this corruption, the same whenever it is made."""

    def one(item: Slice) -> Slice:
        name = f"{seed} {item.case} {item.number}"
        return replace(item, image=noise(panel.target, item.image[None], item.reference[None], severity, [name])[0])

    return [one(item) for item in slices]


def case_dice(counts: ArrayLike) -> float:
    """Mean Dice of a case over its classes, 0 to 1. counts: (classes, 3) = TP, FP, FN of all its voxels. A class in
    neither is left out, as nnU-Net does it; without any class both are empty and agree: 1."""
    found = float(mean_dice(dice_index(np.asarray(counts, np.float64))))
    return 1.0 if math.isnan(found) else found


def scores_of(record: Mapping[str, Any], search: Search | None) -> dict[str, float]:
    """The scores of a case that its record (`examined`) allows. Dice in percent. Of the noises the median, where one
    above the largest counts as the largest; 0 where nothing is found, so that an empty prediction comes first."""
    scores = {}
    if "pairs" in record:
        scores["pairwise_dice"] = 100 * float(np.mean([case_dice(counts) for counts in record["pairs"]]))
    if "plain" in record:
        scores["plain_dice"] = 100 * case_dice(record["plain"])
    if search is not None:
        noises = [search.largest if noise is None else noise for noise in record["noise"]]
        scores["smallest_noise"] = float(np.median(noises)) if noises else 0.0
    return {name: round(value, 5) for name, value in scores.items()}
