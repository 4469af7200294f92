"""The noise sweep: every slice under every kind of noise at every level, and what is left of the segmentation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.errors import UserError, is_out_of_memory
from nnunet_ima.evaluation.journal import Journal, Key, digest
from nnunet_ima.evaluation.noises import Noise, Target
from nnunet_ima.evaluation.progress import Progress
from nnunet_ima.nnunet.ranks import dealt, gathered, rank, world_size
from nnunet_ima.segmentation.cases.intensities import ct_scales
from nnunet_ima.segmentation.cases.models import load_averaged
from nnunet_ima.segmentation.cases.slices import P, Placed, Slice, batches
from nnunet_ima.segmentation.cases.tiles import TiledNetwork

R = TypeVar("R")
Plan = Sequence[tuple[Noise, Sequence[float]]]
"""Kinds of noise, each with its levels in ascending order; 0 is no noise."""
Item = tuple[Noise, float, int]
"""A piece of work: noise, level and number of the batch."""


class Keep(Protocol):
    """Where perturbations are kept that are needed again, by noise, level and number of the batch."""

    def wants(self, noise: Noise, level: float, batch: int) -> bool:
        """Whether these are to be kept, and are not there yet."""

    def store(self, noise: Noise, level: float, batch: int, slices: Sequence[Slice], delta: Tensor) -> None:
        """delta: (N, C, H, W) of the slices."""


@dataclass
class Found:
    """counts: (levels, slices, classes, 3) TP, FP, FN; norms: (levels, slices) of the perturbation that was kept, in
    the norm of the noise (L2 where it has none)."""

    noise: Noise
    levels: list[float]
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]


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
        for item, record in _records(target, read(ordered[batch]), list(items), seed, keep):
            mine[_key(*item)] = record
            if journal:
                journal.add(_key(*item), record)
            shown.done(item[0], item[1], record, _cost(*item, ordered) / everything)
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
    to_do = {_key(*item) for item in left}
    done = [item for item in work if _key(*item) not in to_do]
    share = sum(_cost(*item, ordered) for item in (*done, *own)) / everything
    result = Progress(plan, [len(batch) for batch in ordered], share, shown)
    for item in done:
        result.known(item[0], item[1], known[_key(*item)], _cost(*item, ordered) / everything)
    return result


def _records(
    target: Target, batch: Sequence[Slice], items: Sequence[Item], seed: int, keep: Keep | None
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """What each piece of work on one batch finds."""
    for item in items:
        noise, level, _ = item
        started = perf_counter()
        parts = within_memory(partial(_counted, target, noise=noise, level=level, seed=seed), batch)
        counts, norms, delta = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if keep is not None and keep.wants(*item):
            keep.store(*item, batch, delta)
        yield item, {"counts": counts.tolist(), "norms": norms.tolist(), "seconds": perf_counter() - started}


def _key(noise: Noise, level: float, batch: int) -> Key:
    return f"{noise.name} {digest(noise.settings)}", level, batch


def _work(plan: Plan, ordered: Sequence[Any]) -> list[Item]:
    return [(noise, level, batch) for batch in range(len(ordered)) for noise, levels in plan for level in levels]


def _left(work: Sequence[Item], known: Mapping[Key, Any], keep: Keep | None) -> list[Item]:
    """What is not known yet, or has left no perturbation where one is wanted; the same on every rank."""
    missing = [
        number
        for number, item in enumerate(work)
        if _key(*item) not in known or (keep is not None and keep.wants(*item))
    ]
    # Rank 0 decides for all: what others keep may appear while a rank still looks.
    return [work[number] for number in gathered(missing)[0]]


def _cost(noise: Noise, level: float, batch: int, ordered: Sequence[Sequence[Any]]) -> float:
    """Forwards, about."""
    return len(ordered[batch]) * (noise.cost if level else 1)


def shares(work: Sequence[Item], ordered: Sequence[Sequence[Any]], ranks: int) -> list[list[Item]]:
    """The work of each rank, in the order of batches."""
    return [[work[number] for number in own] for own in dealt([_cost(*item, ordered) for item in work], ranks)]


def _assembled(plan: Plan, ordered: Sequence[Sequence[Placed]], records: dict[Key, dict[str, Any]]) -> Sweep:
    found, seconds = {}, 0.0
    for noise, levels in plan:
        rows = [[records[_key(noise, level, number)] for number in range(len(ordered))] for level in levels]
        seconds += sum(record["seconds"] for row in rows for record in row)
        counts, norms = (
            [[value for record in row for value in record[name]] for row in rows] for name in ("counts", "norms")
        )
        found[noise.name] = Found(noise, list(levels), np.asarray(counts, np.int64), np.asarray(norms, np.float64))
    return Sweep([(item.case, item.number) for batch in ordered for item in batch], found, seconds)


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


def _told(item: Slice) -> str:
    return f"Slice {item.number} of case {item.case}" if item.image.ndim == 3 else f"Case {item.case}"


def stacked(target: Target, batch: Sequence[Slice]) -> tuple[Tensor, Tensor, list[str]]:
    """Images and references of a batch on the target's device, and the name of each slice."""
    x = torch.stack([item.image for item in batch]).to(target.device)
    y = torch.stack([item.reference for item in batch]).to(target.device)
    return x, y, [f"{item.case} {item.number}" for item in batch]


def _counted(
    target: Target, batch: Sequence[Slice], noise: Noise, level: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (N, classes, 3) of the slices under noise, norms (N,) of their perturbations, and these themselves."""
    x, y, names = stacked(target, batch)
    noisy = noise(target, x, y, level, [f"{seed} {name}" for name in names])
    with torch.no_grad():
        counts = target.objective().counts(target.network(noisy), y).cpu()
    return counts, ball.size(noisy - x, noise.settings.get("norm", "l2")).cpu(), (noisy - x).cpu()
