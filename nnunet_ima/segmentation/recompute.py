"""Training passes that keep their input only and compute their activations again when the gradient asks for them.

nnU-Net holds the graph of the clean pass while the loss is computed. An attack within that loss would need a second
graph beside it, and the pass over noisy samples a third; in 3D that is more than the memory the plans were made for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(network: nn.Module) -> Iterator[None]:
    """Within, a pass of `network` with gradients holds no activations: one more forward pass when its gradient is
    taken (gradient checkpointing, Chen et al., 2016, arXiv:1604.06174)."""
    forward = network.forward

    def light(x: Tensor) -> Any:
        return checkpoint(forward, x, use_reentrant=False) if torch.is_grad_enabled() else forward(x)

    light.within = forward  # type: ignore[attr-defined]
    network.forward = light
    try:
        yield
    finally:
        _restore(network, forward)


@contextmanager
def keeping_activations(network: nn.Module) -> Iterator[None]:
    """Within `recomputed`: passes as they were before. An attack takes the gradient of each pass at once, and would pay
    for the memory it saves nowhere."""
    light = network.forward
    if not hasattr(light, "within"):
        yield
        return
    _restore(network, light.within)
    try:
        yield
    finally:
        network.forward = light


def _restore(network: nn.Module, forward: Any) -> None:
    # A module's own method is found without an attribute; that of a compiled one is an attribute itself.
    network.forward = forward
    if getattr(type(network), "forward", None) is getattr(forward, "__func__", forward):
        del network.forward
