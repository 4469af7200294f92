"""GAIRAT, geometry-aware instance-reweighted adversarial training (Zhang et al., ICLR 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks.walk import walk
from nnunet_ima.methods.method import Batch, Method, Run, Tally, check_level, count, number


def weights(held: Tensor, steps: int, middle: float) -> Tensor:
    """(1 + tanh(lambda + 5 (1 - 2 kappa / K))) / 2 of each sample, scaled to a mean of 1: kappa = `held`, the steps
    needed to break it, K = `steps`, lambda = `middle`."""
    # (1 + tanh z) / 2 = sigmoid(2 z), which keeps its digits where tanh is all but -1.
    raw = torch.sigmoid(2 * (middle + 5 * (1 - 2 * held.float() / steps)))
    return raw / raw.mean()


@dataclass(kw_only=True)
class GAIRAT(Method):
    """L = sum of w l(x'), x' the end of PGD within `noise`: samples that break in few steps weigh more.

    middle: the paper's lambda. burn_in: share of the epochs in which all weigh the same.
    """

    word: ClassVar[str] = "gairat"
    label: ClassVar[str] = "GAIRAT"

    steps: int = count(10, 1)
    random_start: bool = True
    noise: float | None = number(None)
    middle: float = number(-1.0, -10, 10)
    burn_in: float = number(0.5, 0, 1)

    @property
    def is_off(self) -> bool:
        return self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        check_level(self.label, self.noise)

    def loss(self, batch: Batch) -> Tensor:
        with batch.attacked() as model:
            found = walk(
                model, batch.x, batch.y, check_level(self.label, self.noise), objective=batch.objective, norm=self.norm,
                steps=self.steps, alpha=self.alpha, random_start=self.random_start, bounds=self.bounds,
                breakable=self.can_break(batch),
            )  # fmt: skip
        samples, right = len(batch.ids), int((found.held > 0).sum())
        crossed = int(((found.held > 0) & (found.held < self.steps)).sum())
        self.tally.merge(Tally(samples, samples, right, crossed, right * self.steps))
        noisy = batch.forward(found.x)
        if self.progress < self.burn_in:
            return noisy.loss()
        return (weights(found.held, self.steps, self.middle) * noisy.losses()).mean()
