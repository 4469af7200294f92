"""PGD that counts how long a sample holds, and may stop soon after it does not (FAT, GAIRAT)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.stall import Stall
from nnunet_ima.attacks.threat import Common, Threat


@dataclass
class Walk:
    """x: (N, ...) where each sample stopped. held: int (N,), at how many of its iterates before a step it was right:
    0 for a sample that is wrong from the start, `steps` for one that never was, or was given up as it was right."""

    x: Tensor
    held: Tensor


def walk(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 10,
    alpha: float = 4.0,
    patience: int | None = None,
    breakable: Tensor | None = None,
    random_start: bool = False,
    stall: int | None = None,
    **common: Unpack[Common],
) -> Walk:
    """N-PGD from `x`; a sample stops after `patience` more steps once it is wrong (None: it takes all).

    breakable: bool (N,), which samples can be wrong at all; the others take all steps. Default: all.
    The other arguments are those of `pgd`; common: see `Common`.
    """
    threat = Threat.of(**common)
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    point = threat.inside(x, threat.start(x, radius, random_start), radius)
    held = torch.zeros(len(x), dtype=torch.long, device=x.device)
    late = torch.zeros_like(held)
    active = torch.arange(len(x), device=x.device)
    stalled = Stall(stall, len(x), x.device)
    with frozen(model), torch.enable_grad():
        for _ in range(steps):
            iterate, reference = point[active].requires_grad_(True), y[active]
            logits = model(iterate)
            right = threat.objective.correct(logits.detach(), reference)
            if breakable is not None:
                right = right | ~breakable[active]
            loss = threat.objective.loss(steady(logits), reference)
            gradient = input_gradient(loss, iterate, reference)
            held[active] += right
            late[active] += ~right
            goes_on = stalled.goes_on(active, loss)
            if goes_on is not None:
                held[active] = torch.where(right & ~goes_on, steps, held[active])
            if patience is not None:
                patient = late[active] <= patience
                goes_on = patient if goes_on is None else goes_on & patient
            if goes_on is not None:
                going = torch.nonzero(goes_on).squeeze(1)
                active, gradient = active[going], gradient[going]
            if not len(active):
                break
            point[active] = threat.climbed(x[active], point[active], radius[active], gradient, alpha / steps)
    return Walk(point, held)
