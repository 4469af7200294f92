"""Several GPUs: what the processes of one training or evaluation tell each other."""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """The number of this process, 0 where there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def dealt(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Which items each rank gets: the costliest first, each to the rank with the least so far. Numbers into `costs`,
    ascending; the same on every rank."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        least = loads.index(min(loads))
        shares[least].append(number)
        loads[least] += costs[number]
    return [sorted(share) for share in shares]


def gathered(value: T) -> list[T]:
    """`value` (picklable) of every rank, in the order of ranks; of this process alone where there is only one.

    All ranks must call it: IMA does so once per epoch and never within an attack, for a rank whose slices have all
    crossed is done sooner than the others.
    """
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
