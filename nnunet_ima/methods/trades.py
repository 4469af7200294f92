"""TRADES (Zhang et al., ICML 2019): the prediction on noise shall be that on the clean sample."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.methods.divergence import Divergence, by_number, divergence
from nnunet_ima.methods.method import Batch, Method, Pass, Run, check_level, count, number

START = 0.001
"""Standard deviation of the noise that the attack starts with: at the clean sample its gradient is zero."""


@dataclass(kw_only=True)
class TRADES(Method):
    """L = l(x) + beta * KL(p(x) || p(x')), x' within `noise` where that KL is largest."""

    word: ClassVar[str] = "trades"
    label: ClassVar[str] = "TRADES"

    steps: int = count(10, 1)
    noise: float | None = number(None)
    beta: float = number(6.0)

    @property
    def is_off(self) -> bool:
        return self.beta == 0 or self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        check_level(self.label, self.noise)

    def noisy(self, batch: Batch) -> Pass:
        """The training pass over the points of the largest divergence."""
        return batch.forward(diverging(self, batch, check_level(self.label, self.noise)))

    def loss(self, batch: Batch) -> Tensor:
        apart = divergence(batch.objective, batch.clean.logits, self.noisy(batch).logits, batch.y)
        return batch.clean.loss() + self.beta * apart.mean()


def diverging(method: Method, batch: Batch, noise: float) -> Tensor:
    """The points within `noise` where the prediction differs most from that on the clean sample."""
    objective = Divergence(batch.objective, batch.clean.logits, batch.y)
    return method.pgd(batch, noise, START * torch.randn_like(batch.x), objective, by_number(batch.x))
