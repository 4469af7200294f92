"""Several GPUs: what the processes of one training tell each other."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """`value` (picklable) of every rank, in the order of ranks; of this process alone where there is only one.

    All ranks must call it: IMA does so once per epoch and never within an attack, for a rank whose slices have all
    crossed is done sooner than the others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
