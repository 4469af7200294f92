"""IAAT, instance adaptive adversarial training (Balaji, Goldstein, Hoffman, arXiv:1910.08051)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Batch, Run, count, number, rows_where, to_device


@dataclass(kw_only=True)
class IAAT(Adaptive):
    """L = l(x') for samples that are right, l(x) for those that are wrong; x' is the worst point within a margin that
    looks one step up and one step down at each visit.

    gamma: that step, in changes of all pixels by 1/255 of the data range.
    smoothing: share b of a new margin that is the candidate.
    warm_up: number of the first epochs, which attack all samples at the fixed level `warm_up_noise` (units of `gamma`).
    """

    word: ClassVar[str] = "iaat"
    label: ClassVar[str] = "IAAT"

    steps: int = count(10, 1)
    random_start: bool = True
    gamma: float = number(1.9)
    smoothing: float = number(0.1, 0, 1)
    warm_up: int = count(5, 0)
    warm_up_noise: float = number(8.0)

    def begin(self, run: Run) -> None:
        super().begin(run)
        unit = run.unit(self.norm)
        self.epochs = run.epochs
        self.step = self.gamma * unit
        self.store = MarginStore(run.ids, self.warm_up_noise * unit)

    @property
    def remark(self) -> str:
        if self.warm_up < self.epochs:
            return ""
        return (
            f"warm_up {self.warm_up} takes all of the epochs, {self.epochs}, so that no margin adapts: "
            "set iaat.warm_up lower, or train longer."
        )

    @property
    def usual_cost(self) -> float:
        """One more attack, or two, look for the margin."""
        return 6.0 + 6 * self.attack_steps

    def loss(self, batch: Batch) -> Tensor:
        margin, eligible = self.margins(batch)
        right = batch.objective.correct(batch.clean.logits.detach(), batch.y)
        if self.progress >= self.warm_up / self.epochs:
            margin = self.adapted(batch, margin, rows_where(eligible))
        noisy = self.pgd(batch, margin)
        return batch.forward(torch.where(ball.broadcast(right, noisy), noisy, batch.x.detach())).loss()

    def adapted(self, batch: Batch, margin: Tensor, rows: Tensor) -> Tensor:
        """The margins of the batch after this visit of the samples `rows`, which is noted."""
        held_above = self.holds(batch, margin + self.step, rows)
        rest = rows[~held_above]
        held = torch.ones_like(held_above)
        held[~held_above] = self.holds(batch, margin, rest)
        old = margin[rows]
        candidate = torch.where(held_above, old + self.step, torch.where(held, old, old - self.step)).clamp_min(0)
        proposed = (1 - self.smoothing) * old + self.smoothing * candidate
        # Proposals of every visit count alike here, whether the sample held or not.
        self.outcomes.note([batch.ids[row] for row in rows.tolist()], [False] * len(rows), proposed.tolist())
        self.tally.crossed += int((~held_above).sum())
        moved = margin.clone()
        moved[rows] = proposed
        return moved

    def holds(self, batch: Batch, margin: Tensor, rows: Tensor) -> Tensor:
        """Which of the samples `rows` PGD within their margin does not break, bool (M,); all on the host."""
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool)
        found = self.bpgd(batch, margin[rows], 0, to_device(rows, batch))
        return (found.correct & ~found.crossed).cpu()
