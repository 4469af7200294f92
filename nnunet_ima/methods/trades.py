"""TRADES (Zhang et al., ICML 2019): the prediction on noise shall be that on the clean sample."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.methods.divergence import Divergence, divergence
from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, Pass, count, number

START = 0.001
"""Standard deviation of the noise that the attack starts with: at the clean sample its gradient is zero."""


@dataclass(kw_only=True)
class TRADES(FixedLevel):
    """L = l(x) + beta * KL(p(x) || p(x')), x' within `noise` where that KL is largest."""

    word: ClassVar[str] = "trades"
    label: ClassVar[str] = "TRADES"

    steps: int = count(10, 1)
    beta: float = number(6.0)

    @property
    def is_off(self) -> bool:
        return self.beta == 0 or self.noise == 0

    def noisy(self, batch: Batch) -> Pass:
        """The training pass over the points of the largest divergence."""
        return batch.forward(diverging(self, batch))

    def loss(self, batch: Batch) -> Tensor:
        apart = divergence(batch.objective, batch.clean.logits, self.noisy(batch).logits, batch.y)
        return batch.clean.loss() + self.beta * apart.mean()


def diverging(method: FixedLevel, batch: Batch) -> Tensor:
    """The points within the level where the prediction differs most from that on the clean sample."""
    objective = Divergence(batch.objective, batch.clean.logits, batch.y)
    numbers = torch.arange(len(batch.x), device=batch.x.device)
    return method.pgd(batch, method.level, START * torch.randn_like(batch.x), objective, numbers)
