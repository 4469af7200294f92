"""Staircase: a level for each sample, a step up where it holds and a step down where it does not. Our own, no paper's.

What psychophysics calls a weighted up-down staircase (Kaernbach, Perception & Psychophysics 1991) finds the level at
which a subject answers right with a chosen probability, down / (up + down), from the answers alone. Here the subjects
are training samples, and the answers come with the attack that training needs anyway.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Batch, Run, check_level, count, mixed, number, rows_where, to_device, to_host


@dataclass(kw_only=True)
class Staircase(Adaptive):
    """L = (1 - beta) l(x) + beta l(x'), beta 1 by default; x' is where PGD of few steps ends within the sample's
    margin. The margin grows by the share `up` where the sample is still right at x', and shrinks by `down` where it is
    not. A sample that is wrong without noise trains without noise.

    noise: the largest margin. first: the first one, as a share of it. up, down: shares of the margin, by which it moves
    at most once per epoch.
    """

    word: ClassVar[str] = "staircase"
    label: ClassVar[str] = "Staircase"
    noise_is_largest: ClassVar[bool] = True

    steps: int = count(3, 1)
    random_start: bool = True
    noise: float | None = number(None)
    first: float = number(1 / 3, 0, 1)
    up: float = number(0.1)
    down: float = number(0.1, 0, 1)
    beta: float = number(1.0, 0, 1)

    @property
    def is_off(self) -> bool:
        """beta = 0 and noise = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        largest = check_level(self.label, self.noise)
        self.store = MarginStore(run.ids, self.first * largest, largest)

    def loss(self, batch: Batch) -> Tensor:
        margin, eligible = self.margins(batch)
        right = batch.objective.correct(batch.clean.logits.detach(), batch.y)
        radius = torch.where(right, to_device(margin.float(), batch), 0.0)
        noisy = batch.forward(self.worst(batch, radius))
        was_right, holds = to_host(right, batch.objective.correct(noisy.logits.detach(), batch.y))
        rows = rows_where((was_right > 0) & eligible)
        held = holds[rows] > 0
        proposed = margin[rows] * torch.where(held, 1 + self.up, 1 - self.down)
        self.note(batch, rows, ~held, proposed, torch.full((len(rows),), self.attack_steps))
        return mixed(batch.clean, noisy, self.beta)
