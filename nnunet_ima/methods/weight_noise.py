"""AWP, adversarial weight perturbation (Wu, Xia, Wang, NeurIPS 2020): noise on weights beside that on images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST_GRADIENT = 12.0
"""nnU-Net clips gradients to this norm; a second gradient is clipped alike."""


@contextmanager
def weight_noise(
    optimizer: torch.optim.Optimizer,
    size: float,
    again: Callable[[], Tensor],
    scale: Callable[[], float] = lambda: 1.0,
    largest: float | None = None,
) -> Iterator[None]:
    """Within, the optimiser steps along the gradient at weights that one step up the loss has moved: each layer by
    `size` times its norm. The weights themselves are those from before.

    size: AWP's gamma, the paper's 0.005 to 0.01; 0: nothing is done. again: the loss of the same step once more, with
    the noise found before. scale: by which it is multiplied before its backward pass, against underflow in float16.
    largest: norm to which the second gradient is clipped.
    """
    if not size:
        yield
        return

    def before_step(*_: object) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        first = [weight.grad for weight in weights]
        kept = _move(weights, size)
        try:
            for weight in weights:
                weight.grad = None
            factor = scale()
            with torch.enable_grad():
                (again() * factor).backward()  # type: ignore[no-untyped-call]
        finally:
            with torch.no_grad():
                for weight, before in zip(weights, kept, strict=True):
                    weight.copy_(before)
        _take_over(weights, first, factor, largest)

    hook = optimizer.register_step_pre_hook(before_step)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def _move(weights: list[nn.Parameter], size: float) -> list[Tensor]:
    """Move each weight of a layer up its gradient; what they were. Biases and scales, of one dimension, stay."""
    kept = [weight.detach().clone() for weight in weights]
    for weight in weights:
        if weight.ndim > 1 and weight.grad is not None:
            length = weight.grad.norm()
            # Where there is no gradient, or one that has no number, the layer stays.
            share = torch.where(torch.isfinite(length) & (length > 0), size * weight.norm() / length, 0.0)
            weight.add_(torch.where(share > 0, weight.grad * share, 0.0))
    return kept


@torch.no_grad()
def _take_over(weights: list[nn.Parameter], first: list[Tensor | None], factor: float, largest: float | None) -> None:
    """The second gradient, unscaled and clipped, in place of the first; the first again if it is not finite."""
    for weight, gradient in zip(weights, first, strict=True):
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad / factor
        weight.grad = weight.grad.to(gradient.dtype) if gradient is not None else weight.grad
    norm = nn.utils.clip_grad_norm_(weights, largest or torch.inf)
    if not torch.isfinite(norm):
        for weight, gradient in zip(weights, first, strict=True):
            weight.grad = gradient
