"""What attacks cost, in forwards of a slice: counted while they run, the same on every machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nnunet_ima.evaluation.noises import Target
from nnunet_ima.methods.cost import Cost


@contextmanager
def counted(target: Target) -> Iterator[Cost]:
    """Counts what the networks of the target, its surrogate's too, are asked for within: each forward of a slice is 1,
    each backward pass to it 1. Nothing that they compute changes."""
    cost = Cost()

    def seen(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        cost.watch(logits)

    networks = {network for network in (target.network, target.surrogate) if isinstance(network, nn.Module)}
    hooks = [network.register_forward_hook(seen) for network in networks]
    try:
        with cost.attacking():
            yield cost
    finally:
        for hook in hooks:
            hook.remove()
