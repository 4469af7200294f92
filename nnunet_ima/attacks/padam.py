"""Projected Adam (PAdam: Halmosi, Mohos and Jelasity, ECCV 2024), in L-infinity as published and in L2."""

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.pgd import climb
from nnunet_ima.attacks.threat import Common, Threat

FIRST, SECOND = 0.9, 0.999
"""Decay of the two moments (Adam's own)."""
SHARE = 0.25
"""Length of a first step as a share of the radius: 2/255 of 8/255 in the authors' release."""


def padam(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 200,
    share: float = SHARE,
    random_start: bool = True,
    **common: Unpack[Common],
) -> Tensor:
    """The worst point that projected Adam (AMSGrad) meets on its path, per sample; arguments and result as for `pgd`.

    share: as long as the gradients agree, a step has the length share * epsilon. See `Moments` for what Adam becomes in
        L2, and for the scale of gradients.

    Raises ValueError as `pgd` does.
    """
    threat = Threat.of(**common)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    moments = Moments(x, threat.norm)

    def step(rows: Tensor, here: Tensor, gradient: Tensor) -> Tensor:
        moved = here + ball.broadcast(share * radius[rows], here) * moments.direction(rows, gradient)
        return threat.inside(x[rows], moved - x[rows], radius[rows])

    start = threat.inside(x, threat.start(x, radius, random_start), radius)
    return climb(model, x, y, radius, start, steps, threat.objective, step)


class Moments:
    """Adam's moments of each sample, of gradients of L2 norm 1: how steep its loss is changes nothing.

    L-infinity: AMSGrad, pixel by pixel, as published. L2: one second moment for all pixels of a sample, which for such
    gradients is 1. With one of their own all pixels would take steps of equal length, which is L-infinity's geometry.
    """

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.first = torch.zeros_like(x)
        self.per_pixel = norm == "linf"
        self.second, self.largest = torch.zeros_like(x), torch.zeros_like(x)
        self.steps = 0

    def direction(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """Where the samples `rows` go, (rows, ...), of norm 1 or less. A sample left out once never comes back."""
        unit = ball.direction(gradient, "l2")
        self.steps += 1
        self.first[rows] = FIRST * self.first[rows] + (1 - FIRST) * unit
        mean = self.first[rows] / (1 - FIRST**self.steps)
        if not self.per_pixel:
            return mean
        self.second[rows] = SECOND * self.second[rows] + (1 - SECOND) * unit.square()
        self.largest[rows] = torch.maximum(self.largest[rows], self.second[rows])
        return mean / (self.largest[rows] / (1 - SECOND**self.steps)).sqrt().clamp_min(1e-8)
