"""Projected gradient descent with one noise level per sample (methods: IMA paper, Sec. 2; Madry et al. 2018)."""

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.stall import Stall
from nnunet_ima.attacks.threat import Common, Threat
from nnunet_ima.attacks.worst import Worst, scores, still_rising

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rows of the batch, their points, gradients of their losses) -> their next points."""


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 20,
    alpha: float = 4.0,
    random_start: bool = True,
    start: Tensor | None = None,
    stall: int | None = None,
    **common: Unpack[Common],
) -> Tensor:
    """The worst point that N-PGD meets on its path, per sample; shape of `x`, within `epsilon` of it.

    model: any callable from images (N, C, ...) to logits (N, K, ...); an nn.Module is left exactly as it was.
    x, y: images in the units that the model sees, and their references.
    epsilon: noise level, one number or one per sample (N,), in the units of `x`; 0 returns the sample itself.
    steps, alpha: each step has the length alpha * epsilon / steps. `steps=1, alpha=1, random_start=False` is FGSM,
        `random_start=False` with more steps is I-FGSM.
    random_start: start uniformly in the volume of the ball instead of at `x`.
    start: start at x + start instead, (N, ...) as `x`.
    stall: a sample stops once its loss has not risen for this many steps; None: it takes all.
    common: objective, norm, bounds and generator, see `Common`.

    Raises ValueError for an unknown norm, negative or non-finite epsilon, or a wrong count.
    """
    threat = Threat.of(**common)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    start = threat.start(x, radius, random_start) if start is None else start

    def step(rows: Tensor, here: Tensor, gradient: Tensor) -> Tensor:
        return threat.climbed(x[rows], here, radius[rows], gradient, alpha / steps)

    return climb(model, x, y, radius, threat.inside(x, start, radius), steps, threat.objective, step, stall)


def climb(
    model: Model,
    x: Tensor,
    y: Tensor,
    radius: Tensor,
    point: Tensor,
    steps: int,
    objective: Objective,
    step: Step,
    stall: int | None = None,
) -> Tensor:
    """The worst point that is met on the path from `point` by gradient steps, per sample; `x` where `radius` is 0.

    step: where the samples `rows` go, from their points and gradients; the other arguments are those of `pgd`.
    """
    worst = Worst(point)
    active = torch.nonzero(radius > 0).squeeze(1)
    stalled = Stall(stall, len(x), x.device)
    with frozen(model), torch.enable_grad():
        for number in range(steps + 1):
            if len(active) == 0:
                break
            iterate = point[active].requires_grad_(number < steps)
            reference = y[active]
            logits = steady(model(iterate))
            loss = objective.at(number / steps).loss(logits, reference)
            score = scores(objective, logits, reference, loss)
            worst.update(active, iterate.detach(), score)
            if number == steps:
                break
            gradient = input_gradient(loss, iterate, reference)
            going = still_rising(score, objective, stalled.goes_on(active, loss))
            active, gradient = active[going], gradient[going]
            point[active] = step(active, point[active], gradient)
    return torch.where(ball.broadcast(radius > 0, x), worst.point, x)
