"""The smallest noise that makes a sample wrong: a minimum-norm attack on any criterion, for example Dice of 60 %.

BPGD (IMA paper, Algorithm 3) looks for a first wrong point in balls that double. From there a walk goes on, with a
radius of its own per sample that shrinks at wrong points and grows at right ones (FMN, Pintor et al., NeurIPS 2021;
DDN, Rony et al., CVPR 2019). At last each point moves along its line onto the boundary.
"""

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.boundary import bpgd
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.threat import Common, Threat

DOUBLINGS = 5
BALL_STEPS = 10
"""Gradient steps of BPGD in each ball."""
FIRST_STEP, LAST_STEP = 0.3, 0.01
"""Length of a step of the walk, as a share of the radius."""
FIRST_CHANGE, LAST_CHANGE = 0.1, 0.002
"""Of the radius, by which it shrinks or grows in a step of the walk."""
STRETCHES = (1.0, 1.02, 1.1, 1.3)


def smallest(
    model: Model, x: Tensor, y: Tensor, largest: float | Tensor, *, steps: int = 50, **common: Unpack[Common]
) -> Tensor:
    """The nearest wrong point that is found for each sample, shape of `x`; the sample itself where it is wrong already,
    or where none is found within `largest`.

    largest: norm of the noise at most, one number or one per sample (N,), in the units of `x`. steps: of the walk. It
    takes up to 50 gradient steps more to find where to start. common: see `Common`.

    Raises ValueError for an unknown norm, a negative or non-finite `largest`, or steps below 0.
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}.")
    threat = Threat.of(**common)
    x = x.detach()
    limit = ball.per_sample(largest, x, "largest")
    with frozen(model):
        best, found, right = _first_wrong(model, x, y, limit, common)
        rows = torch.nonzero(right & (limit > 0)).squeeze(1)
        if len(rows):
            best[rows], found[rows] = _walked(
                model, x[rows], y[rows], limit[rows], best[rows], found[rows], threat, steps
            )
        best = torch.where(ball.broadcast(found, x), best, x)
        return onto_boundary(model, x, y, best, limit, threat.objective, threat.norm)


def _first_wrong(model: Model, x: Tensor, y: Tensor, limit: Tensor, common: Common) -> tuple[Tensor, Tensor, Tensor]:
    """Wrong points on the boundary, or the farthest right ones that were seen; which are wrong, and which samples are
    right without noise, bool (N,)."""
    best = x.clone()
    found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    right, left = found.clone(), torch.arange(len(x), device=x.device)
    for number in range(DOUBLINGS):
        radius = limit[left] / 2 ** (DOUBLINGS - 1 - number)
        there = bpgd(model, x[left], y[left], radius, steps=BALL_STEPS, bisections=6, **common)
        # The wrong end of BPGD's last bracket.
        wrong_end = 2 * there.x - there.last_correct
        best[left] = torch.where(ball.broadcast(there.crossed, x), wrong_end, there.last_correct)
        found[left] = there.crossed
        if number == 0:
            right[left] = there.correct
        left = left[there.correct & ~there.crossed]
        if len(left) == 0:
            break
    return best, found, right


def _walked(
    model: Model, x: Tensor, y: Tensor, limit: Tensor, start: Tensor, found: Tensor, threat: Threat, steps: int
) -> tuple[Tensor, Tensor]:
    """The nearest wrong points on the walk, and which samples have one."""
    objective, norm = threat.objective, threat.norm
    delta, nearest = start - x, start.clone()
    length = torch.where(found, ball.size(delta, norm), torch.inf)
    radius = torch.minimum(length, limit)
    for step in range(steps + 1):
        left = (1 + math.cos(math.pi * step / max(steps, 1))) / 2
        point = (x + delta).requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            logits = steady(model(point))
            loss = objective.loss(logits, y)
        wrong = ~objective.correct(logits.detach(), y)
        own = ball.size(delta, norm)
        nearer = wrong & (own < length)
        nearest = torch.where(ball.broadcast(nearer, x), point.detach(), nearest)
        length = torch.where(nearer, own, length)
        if step == steps:
            break
        change = LAST_CHANGE + (FIRST_CHANGE - LAST_CHANGE) * left
        grown = torch.minimum(torch.minimum(radius * (1 + change), length), limit)
        radius = torch.where(wrong, torch.minimum(radius, own) * (1 - change), grown)
        share = LAST_STEP + (FIRST_STEP - LAST_STEP) * left
        delta = threat.climbed(x, point.detach(), radius, input_gradient(loss, point, y), share) - x
    return nearest, torch.isfinite(length)


@torch.no_grad()
def onto_boundary(
    model: Model,
    x: Tensor,
    y: Tensor,
    point: Tensor,
    largest: float | Tensor,
    objective: Objective,
    norm: Norm = "l2",
    bisections: int = 12,
) -> Tensor:
    """Each point moved along its straight line from `x` to where the sample just is wrong, at most `largest` away; `x`
    itself where it is nowhere. What a search in reduced precision has found may lie just on the right side."""
    delta, limit = point - x, ball.per_sample(largest, x, "largest")
    high = torch.full((len(x),), torch.inf, device=x.device)
    for stretch in STRETCHES:
        rows = torch.nonzero(torch.isinf(high)).squeeze(1)
        if len(rows) == 0:
            break
        right = objective.correct(model(x[rows] + stretch * delta[rows]), y[rows])
        high[rows] = torch.where(right, torch.inf, stretch)
    low = torch.zeros_like(high)
    rows = torch.nonzero(torch.isfinite(high) & (delta.flatten(1) != 0).any(1)).squeeze(1)
    for _ in range(bisections):
        if len(rows) == 0:
            break
        middle = (low[rows] + high[rows]) / 2
        right = objective.correct(model(x[rows] + ball.broadcast(middle, x) * delta[rows]), y[rows])
        low[rows], high[rows] = torch.where(right, middle, low[rows]), torch.where(right, high[rows], middle)
    moved = ball.broadcast(torch.where(torch.isfinite(high), high, 0.0), x) * delta
    return torch.where(ball.broadcast(ball.size(moved, norm) <= limit * 1.0001, x), x + moved, x)
