"""The noise sweep: every slice under every kind of noise at every level, and what is left of the segmentation."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.evaluation.forwards import counted
from nnunet_ima.evaluation.journal import Journal, Key, digest
from nnunet_ima.evaluation.noises import Noise, Target
from nnunet_ima.evaluation.progress import Progress
from nnunet_ima.evaluation.under_noise import outcomes
from nnunet_ima.nnunet.ranks import dealt, gathered, rank, world_size
from nnunet_ima.segmentation.cases.intensities import ct_scales
from nnunet_ima.segmentation.cases.models import load_averaged
from nnunet_ima.segmentation.cases.slices import PLURALS, P, Placed, Slice, batches
from nnunet_ima.segmentation.cases.tiles import TiledNetwork

Plan = Sequence[tuple[Noise, Sequence[float]]]
"""Kinds of noise, each with its levels in ascending order; 0 is no noise."""
Item = tuple[Noise, tuple[float, ...], int]
"""A piece of work: noise, levels and number of the batch. Nested noise takes all its levels in one piece, other noise
one level."""
One = tuple[Noise, float, int]
"""What has a record of its own in the journal."""


class Keep(Protocol):
    """Where perturbations are kept that are needed again, by noise, level and number of the batch."""

    def wants(self, noise: Noise, level: float, batch: int) -> bool:
        """Whether these are to be kept, and are not there yet."""

    def store(self, noise: Noise, level: float, batch: int, slices: Sequence[Slice], delta: Tensor) -> None:
        """delta: (N, C, H, W) of the slices."""


@dataclass
class Found:
    """counts: (levels, slices, classes, 3) TP, FP, FN; norms: (levels, slices) of the perturbation that was kept, in
    the norm of the noise (L2 where it has none). forwards: what it cost, see `forwards.counted`; NaN where an older
    version has not counted it."""

    noise: Noise
    levels: list[float]
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]
    forwards: float = math.nan


@dataclass
class Sweep:
    """slices: (case, number) in the order of the rows; found: by name of the noise; seconds: computed, all together."""

    slices: list[tuple[str, int]]
    found: dict[str, Found]
    seconds: float


def target_of(predictor: Any, surrogate: Any = None, mirroring: bool = False) -> Target:
    """What an nnU-Net predictor predicts with, on whole slices, and that of another model to transfer from; see
    `load_averaged`."""
    networks = [
        None if one is None else TiledNetwork(load_averaged(one, mirroring), one.configuration_manager.patch_size)
        for one in (predictor, surrogate)
    ]
    assert networks[0] is not None
    scales = ct_scales(predictor.plans_manager, predictor.configuration_manager)
    return Target(networks[0], predictor.label_manager, networks[1], scales)


def sweep(
    target: Target,
    slices: Sequence[P],
    plan: Plan,
    batch_size: int,
    seed: int = 0,
    journal: Journal | None = None,
    keep: Keep | None = None,
    progress: bool = True,
    read: Callable[[Sequence[P]], Sequence[Any]] = list,
) -> Sweep:
    """Put every noise of the plan on every slice and count what the target still finds.

    Attacks may run in reduced precision; what they found is counted in float32. A slice's result does not depend on
    its batch mates, and a batch too large for the memory is taken in parts. What the journal holds is not computed
    again. Under torch.distributed the rest is dealt to the ranks by its cost, and all of them get the whole result.
    keep: called with the perturbations of each batch that is computed here. read: gives the slices of a batch, where
    `slices` only says which they are; asked once per batch, of which one at a time is in memory.
    """
    ordered = batches(slices, batch_size)
    known = dict(journal.found) if journal else {}
    work = _work(plan, ordered)
    left = _left(work, known, keep)
    own = shares(left, ordered, world_size())[rank()]
    mine: dict[Key, dict[str, Any]] = {}
    shown = _progress(plan, ordered, work, left, own, known, progress and rank() == 0)
    everything = sum(_cost(*item, ordered) for item in work)
    for batch, items in groupby(own, key=lambda item: item[2]):
        for one, record in _records(target, read(ordered[batch]), list(items), seed, keep):
            mine[_key(*one)] = record
            if journal:
                journal.add(_key(*one), record)
            shown.done(one[0], one[1], record, _cost_of_one(*one, ordered) / everything)
        shown.batch_done()
    shown.close()
    for records in gathered(mine):
        known.update(records)
    return _assembled(plan, ordered, known)


def _progress(
    plan: Plan,
    ordered: Sequence[Sequence[Any]],
    work: Sequence[Item],
    left: Sequence[Item],
    own: Sequence[Item],
    known: Mapping[Key, dict[str, Any]],
    shown: bool,
) -> Progress:
    """What this process shows, with what is known already in it."""
    everything = sum(_cost(*item, ordered) for item in work)
    to_do = {_key(*one) for item in left for one in _each(item)}
    done = [one for item in work for one in _each(item) if _key(*one) not in to_do]
    costs = [_cost_of_one(*one, ordered) for one in done]
    share = (sum(costs) + sum(_cost(*item, ordered) for item in own)) / everything
    result = Progress(plan, [len(batch) for batch in ordered], share, shown, PLURALS[ordered[0][0].unit])
    for one, cost in zip(done, costs, strict=True):
        result.known(one[0], one[1], known[_key(*one)], cost / everything)
    return result


def _records(
    target: Target, batch: Sequence[Slice], items: Sequence[Item], seed: int, keep: Keep | None
) -> Iterator[tuple[One, dict[str, Any]]]:
    """What each piece of work on one batch finds, level by level."""
    with counted(target) as cost:
        for noise, levels, number in items:
            started = perf_counter()
            for level, found in outcomes(target, batch, noise, levels, seed):
                one = noise, level, number
                if keep is not None and keep.wants(*one):
                    keep.store(*one, batch, found.delta)
                record = {"counts": found.counts.tolist(), "norms": found.norms.tolist(), "forwards": cost.read()}
                yield one, record | {"seconds": perf_counter() - started}
                started = perf_counter()


def _each(item: Item) -> list[One]:
    noise, levels, batch = item
    return [(noise, level, batch) for level in levels]


def _key(noise: Noise, level: float, batch: int) -> Key:
    return f"{noise.name} {digest(noise.settings)}", level, batch


def _work(plan: Plan, ordered: Sequence[Any]) -> list[Item]:
    return [
        (noise, part, batch)
        for batch in range(len(ordered))
        for noise, levels in plan
        for part in _parts(noise, levels)
    ]


def _parts(noise: Noise, levels: Sequence[float]) -> list[tuple[float, ...]]:
    return [tuple(levels)] if noise.nested else [(level,) for level in levels]


def _left(work: Sequence[Item], known: Mapping[Key, Any], keep: Keep | None) -> list[Item]:
    """What is not known yet, or has left no perturbation where one is wanted; the same on every rank. A piece of which
    some levels are missing is done anew: its worst noise so far is nowhere."""
    missing = [
        number
        for number, item in enumerate(work)
        if any(_key(*one) not in known or (keep is not None and keep.wants(*one)) for one in _each(item))
    ]
    # Rank 0 decides for all: what others keep may appear while a rank still looks.
    return [work[number] for number in gathered(missing)[0]]


def _cost(noise: Noise, levels: Sequence[float], batch: int, ordered: Sequence[Sequence[Any]]) -> float:
    """Forwards, about."""
    return sum(_cost_of_one(noise, level, batch, ordered) for level in levels)


def _cost_of_one(noise: Noise, level: float, batch: int, ordered: Sequence[Sequence[Any]]) -> float:
    return len(ordered[batch]) * (noise.cost if level else 1)


def shares(work: Sequence[Item], ordered: Sequence[Sequence[Any]], ranks: int) -> list[list[Item]]:
    """The work of each rank, in the order of batches."""
    return [[work[number] for number in own] for own in dealt([_cost(*item, ordered) for item in work], ranks)]


def _assembled(plan: Plan, ordered: Sequence[Sequence[Placed]], records: dict[Key, dict[str, Any]]) -> Sweep:
    found, seconds = {}, 0.0
    for noise, levels in plan:
        rows = [[records[_key(noise, level, number)] for number in range(len(ordered))] for level in levels]
        seconds += sum(record["seconds"] for row in rows for record in row)
        forwards = sum(record.get("forwards", math.nan) for row in rows for record in row)
        counts, norms = (
            [[value for record in row for value in record[name]] for row in rows] for name in ("counts", "norms")
        )
        arrays = np.asarray(counts, np.int64), np.asarray(norms, np.float64)
        found[noise.name] = Found(noise, list(levels), *arrays, forwards)
    return Sweep([(item.case, item.number) for batch in ordered for item in batch], found, seconds)
