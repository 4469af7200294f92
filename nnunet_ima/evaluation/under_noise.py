"""A batch of slices under one kind of noise, level by level: what is left of the segmentation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.errors import UserError, is_out_of_memory
from nnunet_ima.evaluation.nested import left
from nnunet_ima.evaluation.noises import Noise, Target
from nnunet_ima.segmentation.cases.slices import Slice

R = TypeVar("R")
Below = dict[str, Tensor]
"""By name of the slice: its worst noise (C, H, W) at the level below."""


@dataclass(frozen=True)
class Outcome:
    """Of N slices under noise, on the CPU. counts: (N, classes, 3) TP, FP, FN; norms: (N,) of the noise; delta:
    (N, C, H, W), the noise itself."""

    counts: Tensor
    norms: Tensor
    delta: Tensor

    def of(self, rows: Tensor) -> "Outcome":
        return Outcome(self.counts[rows], self.norms[rows], self.delta[rows])

    def replaced(self, rows: Tensor, others: "Outcome") -> "Outcome":
        """The same, but for these rows, which are the `others`."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Outcome(*(ours.index_copy(0, rows, theirs) for ours, theirs in pairs))


def outcomes(
    target: Target, batch: Sequence[Slice], noise: Noise, levels: Sequence[float], seed: int
) -> Iterator[tuple[float, Outcome]]:
    """What is left of each slice at every level, which are in ascending order; of nested noise see `nested.nested`."""
    for number, level in enumerate(levels):
        if number == 0 or not noise.nested:
            found = under_noise(target, batch, noise, level, seed)
        else:
            found = _further(target, batch, noise, level, seed, found, from_it=levels[number - 1] > 0)
        yield level, found


def _further(
    target: Target, batch: Sequence[Slice], noise: Noise, level: float, seed: int, below: Outcome, from_it: bool
) -> Outcome:
    """Of each slice the worse of what the level below has left and of what the attack leaves at this level; lost slices
    are not attacked. from_it: the attack starts from the noise of the level below."""
    rows = torch.from_numpy(np.flatnonzero(left(noise, below.counts)))
    if len(rows) == 0:
        return below
    slices = [batch[row] for row in rows.tolist()]
    starts = {_name(item): delta for item, delta in zip(slices, below.delta[rows], strict=True)}
    found = under_noise(target, slices, noise, level, seed, starts if from_it else None)
    worse = torch.from_numpy(left(noise, found.counts) <= left(noise, below.counts[rows]))
    return below.replaced(rows[worse], found.of(worse))


def under_noise(
    target: Target, batch: Sequence[Slice], noise: Noise, level: float, seed: int, below: Below | None = None
) -> Outcome:
    """What is left of each slice at one level. A batch too large for the memory is taken in parts."""
    parts = within_memory(partial(_counted, target, noise=noise, level=level, seed=seed, below=below), batch)
    return Outcome(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))


def _counted(
    target: Target, batch: Sequence[Slice], noise: Noise, level: float, seed: int, below: Below | None
) -> Outcome:
    x, y, names = stacked(target, batch)
    start = None if below is None else torch.stack([below[name] for name in names]).to(x)
    noisy = noise(target, x, y, level, [f"{seed} {name}" for name in names], start)
    with torch.no_grad():
        counts = target.objective().counts(target.network(noisy), y).cpu()
    return Outcome(counts, ball.size(noisy - x, noise.settings.get("norm", "l2")).cpu(), (noisy - x).cpu())


def _told(item: Slice) -> str:
    if item.unit == "volume":
        return f"Case {item.case}"
    return f"{item.unit.capitalize()} {item.number} of case {item.case}"


def stacked(target: Target, batch: Sequence[Slice]) -> tuple[Tensor, Tensor, list[str]]:
    """Images and references of a batch on the target's device, and the name of each slice."""
    x = torch.stack([item.image for item in batch]).to(target.device)
    y = torch.stack([item.reference for item in batch]).to(target.device)
    return x, y, [_name(item) for item in batch]


def _name(item: Slice) -> str:
    return f"{item.case} {item.number}"


def within_memory(attack: Callable[[Sequence[Slice]], R], batch: Sequence[Slice]) -> list[R]:
    """The results of `attack` on the batch, or on its halves, quarters, ... where the device runs out of memory.

    UserError for a slice that does not fit alone.
    """
    try:
        return [attack(batch)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise UserError(
                f"{_told(batch[0])}, {' x '.join(map(str, batch[0].image.shape))}, does not fit into memory: close "
                "other programs, or evaluate it on a larger device (-device)."
            ) from error
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return within_memory(attack, batch[:half]) + within_memory(attack, batch[half:])
