"""BPGD: a noisy sample right on the decision boundary (IMA paper, Algorithm 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen, input_gradient, steady
from nnunet_ima.attacks.stall import Stall
from nnunet_ima.attacks.threat import Common, Threat


@dataclass
class Boundary:
    """What BPGD found, one row per sample of the batch.

    x: (N, ...) the middle of the last bracket on the boundary where `crossed`, the clean sample elsewhere.
    last_correct: (N, ...) the correct end of that bracket where `crossed`, the last iterate elsewhere.
    correct: bool (N,), the clean sample is classified correctly; only such samples are attacked.
    crossed: bool (N,), a wrong point was found within the margin.
    distance: (N,) norm of `x` minus the clean sample, 0 where not crossed.
    steps: int (N,), gradient steps taken until the first crossing, all of them where none, 0 where not attacked.
    """

    x: Tensor
    last_correct: Tensor
    correct: Tensor
    crossed: Tensor
    distance: Tensor
    steps: Tensor


def bpgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    margin: float | Tensor,
    *,
    steps: int = 20,
    bisections: int = 10,
    alpha: float = 4.0,
    random_start: bool = False,
    clean_logits: Tensor | None = None,
    stall: int | None = None,
    **common: Unpack[Common],
) -> Boundary:
    """Follow N-PGD within `margin` until the first wrong point, then bisect the segment that crosses the boundary.

    A sample leaves the gradient steps at its first crossing, and only samples that crossed are bisected. Without
    a random start the clean sample is iterate 0. A sample whose margin is 0 is not moved and never crosses.

    margin: radius of the search, one number or one per sample (N,), in the units of `x`.
    clean_logits: logits of `x`, computed from it by the same network with `x` requiring gradients: spares the
        first forward; their graph is kept, so that the caller can still train on it. Only sound where the network
        gives the same in train and in eval mode.
    The other arguments are those of `pgd`; common: see `Common`.

    Raises ValueError as `pgd` does, and if bisections is negative.
    """
    threat = Threat.of(**common)
    if steps < 1 or bisections < 0:
        raise ValueError(f"steps must be at least 1 and bisections not negative, got {steps} and {bisections}.")
    radius = ball.per_sample(margin, x, "margin")
    with frozen(model), torch.enable_grad():
        search = _Search(model, x, y, radius, threat, Stall(stall, len(x), x.device))
        search.start(clean_logits, wants_gradient=not random_start)
        if random_start:
            search.start_at(x.detach() + threat.start(x.detach(), radius, random=True))
        for step in range(1, steps + 1):
            if len(search.active) == 0:
                break
            search.advance(alpha / steps, last=step == steps)
        with torch.no_grad():
            return search.bisect(bisections)


class _Search:
    """The state of one BPGD call; `active` holds the indices of the samples that still walk."""

    def __init__(self, model: Model, x: Tensor, y: Tensor, radius: Tensor, threat: Threat, stall: Stall) -> None:
        self.model, self.y, self.radius, self.threat, self.stall = model, y, radius, threat, stall
        self.objective = threat.objective
        self.clean_input = x
        self.x = x.detach()
        self.correct_end = self.x.clone()
        self.wrong_end = self.x.clone()
        self.crossed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.gradient = torch.empty(0)

    def start(self, clean_logits: Tensor | None, wants_gradient: bool) -> None:
        """The clean pass: who is correct, and (as iterate 0) the first gradient."""
        keep_graph = clean_logits is not None
        leaf = self.clean_input if keep_graph else self.x.clone().requires_grad_(wants_gradient)
        logits = self.model(leaf) if clean_logits is None else clean_logits
        self.correct = self.objective.correct(logits.detach(), self.y)
        self.active = torch.nonzero(self.correct & (self.radius > 0)).squeeze(1)
        if wants_gradient and len(self.active):
            loss = self.objective.loss(steady(logits), self.y)[self.active]
            self.gradient = input_gradient(loss, leaf, self.y, retain_graph=keep_graph)[self.active]

    def start_at(self, start: Tensor) -> None:
        """A random start is tested as iterate 0 too: if it is wrong, the pair is (x, x_0)."""
        bounds = self.threat.bounds
        self._visit(start[self.active] if bounds is None else start[self.active].clamp(*bounds), last=False)

    def advance(self, share: float, last: bool) -> None:
        """One gradient step of `share` of the radius for every active sample, then a look at where it led."""
        x, radius = self.x[self.active], self.radius[self.active]
        self.steps[self.active] += 1
        self._visit(self.threat.climbed(x, self.correct_end[self.active], radius, self.gradient, share), last)

    def _visit(self, point: Tensor, last: bool) -> None:
        """Look at one new point per active sample: who crossed leaves, the others get their next gradient."""
        if len(self.active) == 0:
            return
        active, point = self.active, point.detach().requires_grad_(not last)
        reference = self.y[active]
        with torch.set_grad_enabled(not last):
            logits = self.model(point)
        right = self.objective.correct(logits.detach(), reference)
        self.crossed[active] = ~right
        stays = ball.broadcast(right, point)
        self.wrong_end[active] = torch.where(stays, self.wrong_end[active], point.detach())
        self.correct_end[active] = torch.where(stays, point.detach(), self.correct_end[active])
        if last:
            return
        loss = self.objective.loss(steady(logits), reference)
        goes_on = self.stall.goes_on(active, loss)
        # The one place of a step where the host waits for the device: how many go on.
        going = torch.nonzero(right if goes_on is None else right & goes_on).squeeze(1)
        self.active = active[going]
        if len(going):
            self.gradient = input_gradient(loss[going], point, reference)[going]

    def bisect(self, bisections: int) -> Boundary:
        """Halve the bracket (last correct, first wrong) of every sample that crossed."""
        index = torch.nonzero(self.crossed).squeeze(1)
        correct_end, wrong_end = self.correct_end[index], self.wrong_end[index]
        for _ in range(bisections if len(index) else 0):
            middle = (correct_end + wrong_end) / 2
            right = self.objective.correct(self.model(middle), self.y[index])
            right = ball.broadcast(right, middle)
            correct_end = torch.where(right, middle, correct_end)
            wrong_end = torch.where(right, wrong_end, middle)
        boundary = self.x.clone()
        boundary[index] = (correct_end + wrong_end) / 2
        self.correct_end[index] = correct_end
        return Boundary(
            x=boundary,
            last_correct=self.correct_end,
            correct=self.correct,
            crossed=self.crossed,
            distance=ball.size(boundary - self.x, self.threat.norm),
            steps=self.steps,
        )
