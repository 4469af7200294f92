"""Auto-PGD with one noise level per sample (Croce and Hein, ICML 2020), and its shrinking-radius schedule (SEA)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.threat import Common, Threat
from nnunet_ima.attacks.worst import Worst, scores, still_rising

MOMENTUM = 0.75
PROGRESS = 0.75
"""The share of the steps since the last checkpoint that must have raised the loss (rho)."""
SCHEDULE = ((2.0, 0.3), (1.5, 0.3), (1.0, 0.4))
"""SEA (Croce, Singh, Hein, ECCV 2024): radius as a multiple of the noise level, and the share of the steps with it."""


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    steps: int = 100,
    schedule: Sequence[tuple[float, float]] = ((1.0, 1.0),),
    random_start: bool = True,
    start: Tensor | None = None,
    **common: Unpack[Common],
) -> Tensor:
    """The worst point that Auto-PGD meets on its path, per sample; arguments and result as for `pgd`.

    A step has the length 2 * epsilon at first, with momentum. At checkpoints that come ever more often a sample whose
    progress (`Objective.tracked`, in general its loss) has stalled halves its step and goes back to the point of its
    largest progress; there is no step size to choose.

    schedule: phases (radius as a multiple of epsilon, share of the steps); each starts at the worst point of the one
        before, pulled into its ball. Only points within epsilon count. `SCHEDULE` is SEA's.

    Raises ValueError as `pgd` does, and for a schedule that does not end at epsilon.
    """
    threat = Threat.of(**common)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if not schedule or schedule[-1][0] != 1.0:
        raise ValueError(f"schedule must end with the radius 1 (times epsilon), got {list(schedule)}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    worst = Worst(x)
    active = torch.nonzero(radius > 0).squeeze(1)
    start = threat.start(x, schedule[0][0] * radius, random_start) if start is None else start
    point = x + start
    with frozen(model), torch.enable_grad():
        for (factor, _), length in zip(schedule, _lengths(steps, schedule), strict=True):
            if len(active) == 0:
                break
            phase = _Phase(model, x[active], y[active], factor * radius[active], threat)
            seen = Worst(point[active])
            phase.climb(point[active], length, seen, within=factor == 1.0)
            point[active] = seen.point
            if factor == 1.0:
                worst.update(active, seen.point, seen.score)
                active = active[still_rising(worst.score[active], threat.objective)]
    return torch.where(ball.broadcast(radius > 0, x), worst.point, x)


def _lengths(steps: int, schedule: Sequence[tuple[float, float]]) -> list[int]:
    """The steps of each phase: at least one each, all together `steps` where that is enough for all."""
    lengths = [max(1, round(share * steps)) for _, share in schedule]
    lengths[-1] = max(1, steps - sum(lengths[:-1]))
    return lengths


def checkpoints(steps: int) -> list[int]:
    """The steps at which Auto-PGD looks back: 0.22 of them at first, then at ever shorter intervals (Sec. 3.1)."""
    shares, gap, result = 0.22, 0.22, []
    while shares < 1:
        result.append(max(1, round(shares * steps)))
        gap = max(gap - 0.03, 0.06)
        shares += gap
    return sorted(set(result))


@dataclass
class _Phase:
    """Auto-PGD within one radius."""

    model: Model
    x: Tensor
    y: Tensor
    radius: Tensor
    threat: Threat

    def climb(self, start: Tensor, steps: int, seen: Worst, within: bool) -> None:
        """`steps` steps from `start`; the points met are entered into `seen`. within: the radius is that of the noise
        level, so that a sample which reaches the worst badness leaves the search."""
        count = len(self.x)
        everyone = torch.arange(count, device=self.x.device)
        point = self._inside(start, everyone)
        before = point.clone()
        step = 2 * self.radius
        peak, at_peak = point.clone(), torch.zeros_like(point)
        largest = torch.full((count,), -torch.inf, device=self.x.device)
        rises, halved = (
            torch.zeros(count, device=self.x.device),
            torch.zeros(count, dtype=torch.bool, device=step.device),
        )
        last, largest_then = largest.clone(), largest.clone()
        looks, since = set(checkpoints(steps)), 0
        active = everyone
        for number in range(steps + 1):
            gradient, score = self._look(point, active, number / steps, number == steps)
            progress = score[:, 1]
            higher = progress > largest[active]
            if number:
                rises[active] += (progress > last[active]).float()
                since += 1
            last[active] = progress
            largest[active] = torch.where(higher, progress, largest[active])
            peak[active] = torch.where(ball.broadcast(higher, point), point[active], peak[active])
            seen.update(active, point[active], score)
            going = still_rising(score, self.threat.objective) if within else slice(None)
            active, gradient = active[going], gradient[going]
            if number == steps or len(active) == 0:
                break
            at_peak[active] = torch.where(ball.broadcast(higher[going], point), gradient, at_peak[active])
            if number in looks:
                stalled = (rises < PROGRESS * since) | (~halved & (largest <= largest_then))
                step = torch.where(stalled, step / 2, step)
                point = torch.where(ball.broadcast(stalled, point), peak, point)
                before = torch.where(ball.broadcast(stalled, point), point, before)
                gradient = torch.where(ball.broadcast(stalled[active], point), at_peak[active], gradient)
                halved, largest_then, since = stalled, largest.clone(), 0
                rises.zero_()
            here = point[active]
            plain = self._inside(here + ball.broadcast(step[active], here) * gradient, active)
            share = 1.0 if number == 0 else MOMENTUM
            moved = self._inside(here + share * (plain - here) + (1 - share) * (here - before[active]), active)
            before[active], point[active] = here, moved

    def _look(self, point: Tensor, active: Tensor, share: float, at_end: bool) -> tuple[Tensor, Tensor]:
        """Direction of ascent at the active points, and their score: (N, 2) = badness and progress."""
        iterate, reference = point[active].requires_grad_(not at_end), self.y[active]
        logits = steady(self.model(iterate))
        objective = self.threat.objective.at(share)
        loss = objective.loss(logits, reference)
        score = scores(objective, logits, reference, objective.tracked(logits.detach(), reference, loss.detach()))
        if at_end:
            return torch.zeros_like(iterate), score
        gradient = input_gradient(loss, iterate, reference)
        return self.threat.direction(gradient), score

    def _inside(self, point: Tensor, rows: Tensor) -> Tensor:
        x = self.x[rows]
        return self.threat.inside(x, point - x, self.radius[rows])
