"""DDN, decoupled direction and norm (Rony et al., CVPR 2019): the least L2 noise that makes a sample wrong."""

import math

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.objective import CrossEntropy, Objective
from nnunet_ima.attacks.stall import Stall

GAMMA = 0.05
"""By which share the norm shrinks after a wrong point and grows after a right one."""


def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    objective: Objective | None = None,
    steps: int = 100,
    stall: int | None = None,
    initial: float = 1.0,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Of each sample the wrong point of least L2 norm that was met, the last point where none was; shape of `x`.

    The direction follows the gradient, by steps of `initial` that fade along a cosine; the norm, `initial` at first,
    is set apart from it. model, x, y, objective, bounds: as for `pgd`. stall: a sample that was broken stops once its
    least norm has not shrunk for this many steps; None: it takes all.
    """
    objective = objective or CrossEntropy()
    x = x.detach()
    delta = torch.zeros_like(x)
    norm = torch.full((len(x),), float(initial), device=x.device)
    least = torch.full_like(norm, torch.inf)
    best = x.clone()
    active = torch.arange(len(x), device=x.device)
    stalled = Stall(stall, len(x), x.device)
    with frozen(model), torch.enable_grad():
        for step in range(steps + 1):
            point, reference = (x + delta)[active].requires_grad_(True), y[active]
            logits = model(point)
            wrong = ~objective.correct(logits.detach(), reference)
            length = ball.size(delta[active], "l2")
            shorter = wrong & (length < least[active])
            least[active] = torch.where(shorter, length, least[active])
            best[active] = torch.where(ball.broadcast(shorter, point), point.detach(), best[active])
            if step == steps:
                break
            gradient = input_gradient(objective.loss(steady(logits), reference), point, reference)
            goes_on = stalled.goes_on(active, -least[active])
            if goes_on is not None:
                # As long as a sample was not broken the norm has to grow.
                going = torch.nonzero(goes_on | torch.isinf(least[active])).squeeze(1)
                active, gradient, wrong = active[going], gradient[going], wrong[going]
                if not len(active):
                    break
            pace = initial * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
            norm[active] *= torch.where(wrong, 1 - GAMMA, 1 + GAMMA)
            moved = delta[active] + pace * ball.direction(gradient, "l2")
            moved = ball.broadcast(norm[active], moved) * ball.direction(moved, "l2")
            delta[active] = moved if bounds is None else (x[active] + moved).clamp(*bounds) - x[active]
    return torch.where(ball.broadcast(torch.isfinite(least), x), best, x + delta)
