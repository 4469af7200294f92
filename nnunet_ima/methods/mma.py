"""MMA, max-margin adversarial training (Ding et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, Tally, count, number, rows_where, to_host


@dataclass(kw_only=True)
class MMA(FixedLevel):
    """L = (1 - beta) l(x) + beta * (l on the boundary for samples that can be broken within `noise`, l(x) for wrong
    ones) / batch size. The margin is measured anew at every visit, up to `noise`, the paper's d_max.

    beta: 2/3 in the paper. bisections: see `bpgd`.
    """

    word: ClassVar[str] = "mma"
    label: ClassVar[str] = "MMA"
    noise_is_largest: ClassVar[bool] = True

    beta: float = number(2 / 3, 0, 1)
    bisections: int = count(10, 0)

    @property
    def is_off(self) -> bool:
        return self.beta == 0

    def loss(self, batch: Batch) -> Tensor:
        samples = len(batch.ids)
        found = self.bpgd(batch, self.level, self.bisections)
        correct, crossed, steps = (int(each.sum()) for each in to_host(found.correct, found.crossed, found.steps))
        self.tally.merge(Tally(samples, samples, correct, crossed, steps))
        rows: Tensor = rows_where(found.crossed | (~found.correct & self.can_break(batch)))
        clean = (1 - self.beta) * batch.clean.loss()
        if not len(rows):
            return clean
        # Where a sample is wrong, `found.x` is the sample itself.
        return clean + self.beta * len(rows) / samples * batch.forward(found.x[rows], rows).loss()
