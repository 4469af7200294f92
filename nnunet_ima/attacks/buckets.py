"""Few batch sizes for a network that prepares itself for each size that it meets: a compiled one is compiled anew, and
for any other cuDNN tries its algorithms anew. The active set of an attack has another size at every step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def halves(largest: int) -> list[int]:
    """An eighth, a quarter, a half of `largest`, and `largest`.

    Never a single sample where `largest` is more: torch compiles that size apart from all others.
    """
    return sorted({min(largest, max(2, -(-largest // parts))) for parts in (8, 4, 2, 1)})


def eighths(largest: int) -> list[int]:
    """One to eight eighths of `largest`: twice as many sizes as `halves`, and at most an eighth of a batch too much."""
    return sorted({-(-largest * parts // 8) for parts in range(1, 9)})


def bucketed(model: Callable[[Tensor], Any], sizes: Sequence[int]) -> Callable[[Tensor], Any]:
    """`model` called only with batches of these `sizes`, which ascend: padded with copies of the first sample, whose
    outputs are dropped (deep supervision: from each of the outputs). A batch larger than all sizes passes as it is."""

    def run(x: Tensor) -> Any:
        count = len(x)
        bucket = next((size for size in sizes if size >= count), count)
        if bucket == count:
            return model(x)
        output = model(torch.cat([x, x[:1].expand(bucket - count, *x.shape[1:])]))
        return [part[:count] for part in output] if isinstance(output, list | tuple) else output[:count]

    return run
