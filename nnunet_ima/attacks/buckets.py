"""Few batch sizes for a compiled network, which would otherwise be compiled anew for each size of the active set."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def bucketed(model: Callable[[Tensor], Any], largest: int) -> Callable[[Tensor], Any]:
    """`model` called only with batches of an eighth, a quarter, a half of `largest`, or `largest`: padded with copies
    of the first sample, whose outputs are dropped (deep supervision: from each of the outputs).

    Never with a single sample where `largest` is more: torch compiles that size apart from all others.
    """
    sizes = sorted({min(largest, max(2, -(-largest // parts))) for parts in (8, 4, 2, 1)})

    def run(x: Tensor) -> Any:
        count = len(x)
        bucket = next((size for size in sizes if size >= count), count)
        if bucket == count:
            return model(x)
        output = model(torch.cat([x, x[:1].expand(bucket - count, *x.shape[1:])]))
        return [part[:count] for part in output] if isinstance(output, list | tuple) else output[:count]

    return run
