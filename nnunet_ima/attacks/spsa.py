"""SPSA: gradients estimated from the model's outputs alone (Uesato et al., ICML 2018)."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.threat import Common, Threat
from nnunet_ima.attacks.worst import Worst, scores, still_rising

CHUNK = 128
"""Noisy copies of one sample per forward."""


def spsa(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 20,
    alpha: float = 4.0,
    samples: int = 2048,
    probe: float = 0.01,
    **common: Unpack[Common],
) -> Tensor:
    """The worst point that PGD meets on its path when it climbs estimated gradients; arguments and result as for `pgd`.

    samples: forwards per estimate (the paper's 2048), in pairs x + probe * v and x - probe * v with random signs v.
    probe: the length of a probe per pixel, in the units of `x`.

    It finds no slope that is not there, but where gradients are masked it climbs all the same. Costs
    steps * (samples + 1) forwards per sample, so that it is for few samples.
    """
    threat = Threat.of(**common)
    if steps < 1 or samples < 2:
        raise ValueError(f"steps must be at least 1 and samples at least 2, got {steps} and {samples}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    draws = ball.generators(x, threat.generator)
    worst, point = Worst(x), x.clone()
    active = torch.nonzero(radius > 0).squeeze(1)
    with frozen(model), torch.no_grad():
        for step in range(steps + 1):
            if len(active) == 0:
                break
            worst.update(active, point[active], scores(threat.objective, model(point[active]), y[active]))
            active = active[still_rising(worst.score[active], threat.objective)]
            if step == steps or len(active) == 0:
                break
            gradient = torch.stack(
                [
                    _estimate(model, point[row], y[row], threat.objective, samples, probe, draws[row])
                    for row in active.tolist()
                ]
            )
            point[active] = threat.climbed(x[active], point[active], radius[active], gradient, alpha / steps)
    return torch.where(ball.broadcast(radius > 0, x), worst.point, x)


def _estimate(
    model: Model, x: Tensor, y: Tensor, objective: Objective, samples: int, probe: float, generator: torch.Generator
) -> Tensor:
    """The gradient of the loss of one sample, up to its length: mean of v * (loss(x + v) - loss(x - v))."""
    total = torch.zeros_like(x)
    left = samples // 2
    while left:
        count = min(left, CHUNK // 2)
        drawn = torch.randint(2, (count, *x.shape), generator=generator, device=generator.device)
        signs = (2 * drawn - 1).to(x)
        points = torch.cat([x + probe * signs, x - probe * signs])
        loss = objective.loss(model(points), y.expand(2 * count, *y.shape))
        total += (ball.broadcast(loss[:count] - loss[count:], signs) * signs).sum(0)
        left -= count
    return total
