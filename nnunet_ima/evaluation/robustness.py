"""The noise sweep: every slice attacked once at every noise level, and what is left of the segmentation."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.precision import autocast, native_bfloat16
from nnunet_ima.errors import UserError, is_out_of_memory
from nnunet_ima.evaluation.slices import Slice, batches
from nnunet_ima.evaluation.tiles import TiledNetwork
from nnunet_ima.segmentation.dice import SegmentationObjective
from nnunet_ima.segmentation.weighted import CosPGDObjective, SegPGDObjective

R = TypeVar("R")


@dataclass(frozen=True)
class Attack:
    """White-box attack in L2: `steps` steps of alpha * eps / steps; the lowest Dice on the path counts."""

    name: str = "pgd"
    steps: int = 100
    alpha: float = 4.0
    random_start: bool = True
    seed: int = 0


OBJECTIVES: dict[str, type[SegmentationObjective]] = {
    "pgd": SegmentationObjective,
    "segpgd": SegPGDObjective,
    "cospgd": CosPGDObjective,
    "ifgsm": SegmentationObjective,
    "fgsm": SegmentationObjective,
}
"""What each attack climbs; all are settings of PGD."""


def named_attack(name: str, steps: int, seed: int) -> Attack:
    """One of `OBJECTIVES`: I-FGSM starts at the slice itself, FGSM is its single step of length eps."""
    if name == "fgsm":
        return Attack(name, steps=1, alpha=1.0, random_start=False, seed=seed)
    return Attack(name, steps=steps, random_start=name != "ifgsm", seed=seed)


@dataclass
class Sweep:
    """counts: (levels, slices, classes, 3) TP, FP, FN under attack; norms: (levels, slices) of the perturbation that
    was kept; control: counts under random noise of the norm of the level."""

    levels: list[float]
    slices: list[tuple[str, int]]
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]
    control: NDArray[np.int64]
    seconds: float


def sweep(
    predictor: Any,
    slices: Sequence[Slice],
    levels: Sequence[float],
    attack: Attack,
    batch_size: int,
    progress: bool = True,
) -> Sweep:
    """Attack all slices at all levels and count. Attacks run in reduced precision where the device computes it
    natively; what they found is counted in float32. A slice's result does not depend on its batch mates, and a batch
    too large for the memory is taken in parts."""
    started = perf_counter()
    objective = OBJECTIVES[attack.name].of(predictor.label_manager)
    network = TiledNetwork(predictor.network, predictor.configuration_manager.patch_size)
    ordered = batches(slices, batch_size)
    names = [(item.case, item.number) for batch in ordered for item in batch]
    counts = np.zeros((len(levels), len(names), objective.num_foreground, 3), dtype=np.int64)
    control = np.zeros_like(counts)
    norms = np.zeros((len(levels), len(names)))
    bar = tqdm(total=len(levels) * len(names), unit="slice", disable=not progress, dynamic_ncols=True)
    first = 0
    for batch in ordered:
        rows = slice(first, first + len(batch))
        for number, level in enumerate(levels):
            found = within_memory(partial(_counted, network, level=level, objective=objective, attack=attack), batch)
            for target, parts in zip((counts, norms, control), zip(*found, strict=True), strict=True):
                target[number, rows] = torch.cat(parts).numpy()
            bar.update(len(batch))
        first += len(batch)
    bar.close()
    return Sweep(list(levels), names, counts, norms, control, perf_counter() - started)


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
                f"Slice {batch[0].number} of case {batch[0].case}, {' x '.join(map(str, batch[0].image.shape))}, does "
                "not fit into memory: close other programs, or evaluate it on a larger device (-device)."
            ) from error
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return within_memory(attack, batch[:half]) + within_memory(attack, batch[half:])


def _counted(
    network: TiledNetwork, batch: Sequence[Slice], level: float, objective: SegmentationObjective, attack: Attack
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (N, classes, 3) of the slices under attack, norms (N,) of their perturbations, counts under noise."""
    device = next(network.parameters()).device
    x = torch.stack([item.image for item in batch]).to(device)
    y = torch.stack([item.reference for item in batch]).to(device)
    noisy = _attacked(network, x, y, level, objective, attack, [_generator(item, level, attack) for item in batch])
    random = x + level * ball.random_direction(x, [_generator(item, level, attack) for item in batch])
    with torch.no_grad():
        counts, control = (objective.counts(network(images), y).cpu() for images in (noisy, random))
    return counts, ball.size(noisy - x, "l2").cpu(), control


def _attacked(
    network: TiledNetwork,
    x: Tensor,
    y: Tensor,
    level: float,
    objective: SegmentationObjective,
    attack: Attack,
    generators: Sequence[torch.Generator],
) -> Tensor:
    with autocast(x.device, native_bfloat16(x.device)):
        return pgd(
            network, x, y, level, objective=objective, steps=attack.steps, alpha=attack.alpha,
            random_start=attack.random_start, generator=generators,
        )  # fmt: skip


def _generator(item: Slice, level: float, attack: Attack) -> torch.Generator:
    """A random start of its own for each slice and level: the same whatever is evaluated beside it."""
    name = f"{attack.seed} {item.case} {item.number} {level!r}"
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
