"""FAT, friendly adversarial training (Zhang et al., ICML 2020): noise that just breaks a sample, not the worst."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.attacks.walk import walk
from nnunet_ima.methods.method import Batch, Method, Run, Tally, check_level, count, number

SCHEDULE = ((0.0, 0), (50 / 120, 1), (90 / 120, 2))
"""From which share of the training on how many more steps are taken after a sample has become wrong (tau)."""


@dataclass(kw_only=True)
class FAT(Method):
    """L = l(x'), x' where PGD within `noise` stops: tau steps after the first wrong point."""

    word: ClassVar[str] = "fat"
    label: ClassVar[str] = "FAT"

    steps: int = count(10, 1)
    random_start: bool = True
    noise: float | None = number(None)

    @property
    def is_off(self) -> bool:
        return self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        check_level(self.label, self.noise)

    def loss(self, batch: Batch) -> Tensor:
        patience = max(tau for share, tau in SCHEDULE if self.progress >= share)
        with batch.attacked() as model:
            found = walk(
                model, batch.x, batch.y, check_level(self.label, self.noise), objective=batch.objective, norm=self.norm,
                steps=self.steps, alpha=self.alpha, patience=patience, random_start=self.random_start,
                bounds=self.bounds, breakable=self.can_break(batch),
            )  # fmt: skip
        samples, right = len(batch.ids), int((found.held > 0).sum())
        crossed = int(((found.held > 0) & (found.held < self.steps)).sum())
        self.tally.merge(Tally(samples, samples, right, crossed, int(found.held.sum())))
        return batch.forward(found.x).loss()
