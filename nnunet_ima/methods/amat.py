"""AMAT, adaptive margins for segmentation by IMA's authors (Ma and Liang 2022, arXiv:2206.01736)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import (
    Batch,
    Gather,
    Pass,
    Run,
    Tally,
    alone,
    check_level,
    mixed,
    number,
    rows_where,
    to_device,
    to_host,
)

FIRST = 1 / 10
"""First margin and growth, as a share of the largest."""


@dataclass(kw_only=True)
class AMAT(Adaptive):
    """L = (1 - beta) l(x) + beta l(x'), x' the worst point within the sample's margin; the margin grows by
    `margin_step` where the sample was right both without and with noise, and never shrinks.

    noise: the largest margin. margin_step: first margin and growth per epoch; None: a tenth of `noise`, the paper's.
    beta: weight of the noisy loss. z: right means a loss below mean + z standard deviations of the clean losses of the
    epoch before; None: right as the task has it, a slice's Dice above the threshold, a classifier's label.
    """

    word: ClassVar[str] = "amat"
    label: ClassVar[str] = "AMAT"
    noise_is_largest: ClassVar[bool] = True

    random_start: bool = True
    noise: float | None = number(None)
    margin_step: float | None = number(None)
    beta: float = number(0.5, 0, 1)
    z: float | None = number(None, -10, 10)

    @property
    def is_off(self) -> bool:
        """beta = 0 and noise = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        largest = check_level(self.label, self.noise)
        self.step = FIRST * largest if self.margin_step is None else self.margin_step
        self.store = MarginStore(run.ids, self.step, largest)
        self.largest_loss = -math.inf
        """Below which a loss is right; no sample is in the first epoch, whose losses it is taken from."""
        self.clean_losses = Moments()

    def loss(self, batch: Batch) -> Tensor:
        margin, eligible = self.margins(batch)
        noisy = batch.forward(self.worst(batch, to_device(margin.float(), batch)))
        right, holds = (
            to_host(self.right(batch, batch.clean), self.right(batch, noisy))
            if self.z is None
            else self.below(batch, noisy, eligible)
        )
        rows = rows_where((right > 0) & eligible)
        holds = holds[rows] > 0
        proposed = margin[rows] + self.step * holds
        self.note(batch, rows, ~holds, proposed, torch.full((len(rows),), self.attack_steps))
        return mixed(batch.clean, noisy, self.beta)

    def right(self, batch: Batch, over: Pass) -> Tensor:
        """Which samples are right in a pass, bool (N,)."""
        return batch.objective.correct(over.logits.detach(), batch.y)

    def below(self, batch: Batch, noisy: Pass, eligible: Tensor) -> list[Tensor]:
        """Whose clean and whose noisy loss are below the threshold, (N,) each, on the host."""
        with torch.no_grad():
            losses = [batch.objective.loss(over.logits.detach(), batch.y) for over in (batch.clean, noisy)]
        clean, attacked = to_host(*losses)
        self.clean_losses.add(clean[eligible])
        return [(clean < self.largest_loss).double(), (attacked < self.largest_loss).double()]

    def end_epoch(self, gather: Gather = alone) -> Tally:
        if self.z is not None:
            seen = Moments()
            for other in gather(self.clean_losses):
                seen.merge(other)
            self.largest_loss = seen.threshold(self.z)
            self.clean_losses = Moments()
        return super().end_epoch(gather)

    def state(self) -> dict[str, Any]:
        return super().state() | {"largest_loss": self.largest_loss}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.largest_loss = state.get("largest_loss", -math.inf)


@dataclass
class Moments:
    """Number, sum and sum of squares of the losses of an epoch."""

    samples: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, losses: Tensor) -> None:
        self.merge(Moments(len(losses), float(losses.sum()), float(losses.square().sum())))

    def merge(self, other: "Moments") -> None:
        self.samples += other.samples
        self.total += other.total
        self.squares += other.squares

    def threshold(self, z: float) -> float:
        """mean + z standard deviations; -inf where nothing was seen."""
        if not self.samples:
            return -math.inf
        mean = self.total / self.samples
        return mean + z * math.sqrt(max(self.squares / self.samples - mean**2, 0.0))
