"""DDN, decoupled direction and norm (Rony et al., CVPR 2019): the least L2 noise that makes a sample wrong."""

import math

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.objective import CrossEntropy, Objective

GAMMA = 0.05
"""By which share the norm shrinks after a wrong point and grows after a right one."""


def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective | None = None,
    steps: int = 100,
    initial: float = 1.0,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Of each sample the wrong point of least L2 norm that was met, the last point where none was; shape of `x`.

    The direction follows the gradient, by steps of `initial` that fade along a cosine; the norm, `initial` at first,
    is set apart from it. model, x, y, objective, bounds: as for `pgd`.
    """
    objective = objective or CrossEntropy()
    x = x.detach()
    delta = torch.zeros_like(x)
    norm = torch.full((len(x),), float(initial), device=x.device)
    least = torch.full_like(norm, torch.inf)
    best = x.clone()
    with frozen(model), torch.enable_grad():
        for step in range(steps + 1):
            point = (x + delta).requires_grad_(True)
            logits = model(point)
            wrong = ~objective.correct(logits.detach(), y)
            length = ball.size(delta, "l2")
            shorter = wrong & (length < least)
            least = torch.where(shorter, length, least)
            best = torch.where(ball.broadcast(shorter, x), point.detach(), best)
            if step == steps:
                break
            gradient = input_gradient(objective.loss(steady(logits), y), point, y)
            pace = initial * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
            norm = norm * torch.where(wrong, 1 - GAMMA, 1 + GAMMA)
            delta = delta + pace * ball.direction(gradient, "l2")
            delta = ball.broadcast(norm, x) * ball.direction(delta, "l2")
            if bounds is not None:
                delta = (x + delta).clamp(*bounds) - x
    return torch.where(ball.broadcast(torch.isfinite(least), x), best, x + delta)
