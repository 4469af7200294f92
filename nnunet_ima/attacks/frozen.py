"""An attack leaves no trace in the model it runs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]


@contextmanager
def frozen(model: Model) -> Iterator[Model]:
    """The model in eval mode with parameters that need no gradient; both are put back afterwards, module by module.

    Eval mode keeps batch-norm statistics as they are and dropout quiet. Frozen parameters spare a compiled network
    the weight gradients, which it would otherwise compute at every step even under `torch.autograd.grad`.
    A model that is no nn.Module is passed through.
    """
    if not isinstance(model, nn.Module):
        yield model
        return
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        # train(False) only where something was on: setting it again would invalidate a compiled network's guards.
        if training:
            model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


class _Steady(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.dtype = logits.dtype
        # A view where they are float32 already: what a Function returns must not be its input itself.
        return logits.float() if logits.dtype != torch.float32 else logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0]
        largest = gradient.flatten(1).abs().amax(1)
        usable = torch.isfinite(largest) & (largest > 0)
        # A power of two: in float32 no digit of the attack's direction changes.
        exponent = torch.log2(torch.where(usable, largest, 1.0)).floor()
        scaled: Tensor = torch.ldexp(gradient, -exponent.view(-1, *[1] * (gradient.ndim - 1)))
        return scaled.to(ctx.dtype)


def steady(logits: Tensor) -> Tensor:
    """The logits (N, ...) in float32, for the loss of an attack; on its way back each sample's gradient is scaled by a
    power of two, so that its largest entry lies between 1 and 2.

    An attack uses the direction of a gradient only. Without this, the gradients of a confident classifier (a lead of
    10 and more), or of the mean over the pixels of a large slice, vanish or overflow in a network that runs in float16.
    """
    steadied: Tensor = _Steady.apply(logits)  # type: ignore[no-untyped-call]
    return steadied


def input_gradient(loss: Tensor, x: Tensor, y: Tensor, retain_graph: bool = False) -> Tensor:
    """d(sum of `loss`)/dx times the entries of a reference (pixels), shape of `x`. Leaves every `.grad` untouched.

    The factor turns a mean over pixels into a sum, whose gradient does not underflow under float16.
    """
    return torch.autograd.grad(loss.sum() * y[0].numel(), x, retain_graph=retain_graph)[0]
