"""GAIRAT, geometry-aware instance-reweighted adversarial training (Zhang et al., ICLR 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, count, number
from nnunet_ima.methods.weights import scaled


def weights(held: Tensor, steps: int, middle: float, breakable: Tensor | None = None) -> Tensor:
    """(1 + tanh(lambda + 5 (1 - 2 kappa / K))) / 2 of each sample, `scaled`: kappa = `held`, the steps needed to break
    it, K = `steps`, lambda = `middle`."""
    # (1 + tanh z) / 2 = sigmoid(2 z), which keeps its digits where tanh is all but -1.
    return scaled(torch.sigmoid(2 * (middle + 5 * (1 - 2 * held.float() / steps))), breakable)


@dataclass(kw_only=True)
class GAIRAT(FixedLevel):
    """L = sum of w l(x'), x' the end of PGD within `noise`: samples that break in few steps weigh more.

    middle: the paper's lambda. burn_in: share of the epochs in which all weigh the same.
    """

    word: ClassVar[str] = "gairat"
    label: ClassVar[str] = "GAIRAT"

    steps: int = count(10, 1)
    random_start: bool = True
    middle: float = number(-1.0, -10, 10)
    burn_in: float = number(0.5, 0, 1)

    def loss(self, batch: Batch) -> Tensor:
        found = self.walk(batch)
        noisy = batch.forward(found.x)
        if self.progress < self.burn_in:
            return noisy.loss()
        weight = weights(found.held, self.attack_steps, self.middle, self.can_break(batch))
        return (weight * noisy.losses()).mean()
