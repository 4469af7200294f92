"""Training on DDN noise (Rony et al., CVPR 2019)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.ddn import ddn
from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, Tally, count


@dataclass(kw_only=True)
class DDN(FixedLevel):
    """L = l(x'), x' the least noise that breaks a sample, shortened to `noise` where it is more. L2 only."""

    word: ClassVar[str] = "ddn"
    label: ClassVar[str] = "DDN"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    steps: int = count(100, 1)

    def loss(self, batch: Batch) -> Tensor:
        clean = batch.x.detach()

        def attack() -> Tensor:
            with self.attacked(batch) as model:
                return ddn(
                    model,
                    clean,
                    batch.y,
                    objective=batch.objective,
                    steps=self.attack_steps,
                    stall=self.stall,
                    bounds=self.bounds,
                )

        found = self.search(attack)
        limit = torch.full((len(clean),), self.level, device=clean.device)
        noisy = ball.step_inside(clean, found - clean, limit, "l2", self.bounds)
        samples = len(batch.ids)
        right = int(batch.objective.correct(batch.clean.logits.detach(), batch.y).sum())
        self.tally.merge(Tally(samples, samples, right, 0, samples * self.attack_steps))
        return batch.forward(noisy).loss()
