"""FAT, friendly adversarial training (Zhang et al., ICML 2020): noise that just breaks a sample, not the worst."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, count

SCHEDULE = ((0.0, 0), (50 / 120, 1), (90 / 120, 2))
"""From which share of the training on how many more steps are taken after a sample has become wrong (tau)."""


@dataclass(kw_only=True)
class FAT(FixedLevel):
    """L = l(x'), x' where PGD within `noise` stops: tau steps after the first wrong point."""

    word: ClassVar[str] = "fat"
    label: ClassVar[str] = "FAT"

    steps: int = count(10, 1)
    random_start: bool = True

    def loss(self, batch: Batch) -> Tensor:
        patience = max(tau for share, tau in SCHEDULE if self.progress >= share)
        return batch.forward(self.walk(batch, patience).x).loss()
