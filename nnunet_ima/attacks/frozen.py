"""An attack leaves no trace in the model it runs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def input_gradient(loss: Tensor, x: Tensor, y: Tensor, retain_graph: bool = False) -> Tensor:
    """d(sum of `loss`)/dx, shape of `x`. Leaves every `.grad` untouched.

    The loss is scaled by the entries of a reference (pixels), which turns a mean over pixels into a sum: under
    float16 the gradient of a mean underflows, and an attack only uses the gradient's direction anyway.
    """
    return torch.autograd.grad(loss.sum() * y[0].numel(), x, retain_graph=retain_graph)[0]
