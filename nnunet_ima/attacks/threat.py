"""What every attack is told, in one place: what it climbs, and which points count."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import Generators, Norm
from nnunet_ima.attacks.objective import CrossEntropy, Objective


class Common(TypedDict, total=False):
    """Keyword arguments of every attack.

    objective: per-sample loss, correctness and badness; default cross-entropy with argmax.
    norm: `l2` (default) or `linf`, over all dimensions of a sample.
    bounds: intensities are clipped to (low, high), in the units of the images, which should lie within; default none.
    generator: of random numbers, one for the batch or one per sample; with one per sample the noise of a sample does
        not depend on its batch mates. Default: torch's own.
    """

    objective: Objective | None
    norm: Norm
    bounds: tuple[float, float] | None
    generator: Generators


class Climbing(Common, total=False):
    """Keyword arguments of attacks by gradient steps of fixed length.

    steps: number of gradient steps. alpha: each step has the length alpha * radius / steps.
    random_start: start uniformly in the volume of the ball instead of at the sample.
    stall: a sample stops once its loss has not risen for this many steps; None, the default: it takes all steps.
    """

    steps: int
    alpha: float
    random_start: bool
    stall: int | None


@dataclass(frozen=True)
class Threat:
    """The arguments of `Common`, checked, and the geometry that follows from them."""

    objective: Objective
    norm: Norm
    bounds: tuple[float, float] | None
    generator: Generators

    @classmethod
    def of(cls, **common: Unpack[Common]) -> "Threat":
        """ValueError for an unknown norm."""
        norm = common.get("norm", "l2")
        ball.check_norm(norm)
        objective = common.get("objective") or CrossEntropy()
        return cls(objective, norm, common.get("bounds"), common.get("generator"))

    def start(self, x: Tensor, radius: Tensor, random: bool) -> Tensor:
        """The first perturbation of each sample, shape of `x`: random within `radius` (N,), or 0."""
        return ball.random_point(x, radius, self.norm, self.generator) if random else torch.zeros_like(x)

    def direction(self, gradient: Tensor) -> Tensor:
        """The unit step of steepest ascent."""
        return ball.direction(gradient, self.norm)

    def inside(self, x: Tensor, delta: Tensor, radius: Tensor) -> Tensor:
        """x + delta, first pulled into the ball of `radius` (N,) around `x`, then clipped to the bounds."""
        return ball.step_inside(x, delta, radius, self.norm, self.bounds)

    def climbed(self, x: Tensor, point: Tensor, radius: Tensor, gradient: Tensor, share: float) -> Tensor:
        """One step of `share` of `radius` up the gradient from `point`, kept within the ball around `x`."""
        moved = point + ball.broadcast(share * radius, x) * self.direction(gradient) - x
        return self.inside(x, moved, radius)
