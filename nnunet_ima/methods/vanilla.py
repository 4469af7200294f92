"""Vanilla adversarial training at one fixed noise level ("adv" in the IMA paper's tables; Madry et al., ICLR 2018)."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.methods.ima import Tally, Twins


@dataclass
class Vanilla:
    """Every sample has a twin: the worst point of PGD at `noise`. L = (l(x) + l(twin)) / 2 at the default beta.

    noise: the fixed noise level, in the units of the images. beta: weight of the noisy loss. steps, alpha, norm,
    random_start, bounds: of the attack.
    """

    noise: float
    beta: float = 0.5
    steps: int = 20
    alpha: float = 4.0
    norm: Norm = "l2"
    random_start: bool = True
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.tally = Tally()

    @property
    def is_off(self) -> bool:
        """beta = 0 and noise = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def noisy_twins(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Sequence[Hashable],
        objective: Objective,
        clean_logits: Tensor | None = None,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Twins:
        """The twins of the whole batch. ids and clean_logits are those of methods that need them."""
        with precision():
            noisy = pgd(
                model, x, y, self.noise, objective=objective, norm=self.norm, steps=self.steps, alpha=self.alpha,
                random_start=self.random_start, bounds=self.bounds,
            )  # fmt: skip
        self.tally.merge(Tally(len(ids), len(ids), len(ids), 0, len(ids) * self.steps))
        return Twins(noisy, torch.arange(len(x), device=x.device))

    def mix(self, clean: Tensor, noisy: Tensor | None, noisy_share: float) -> Tensor:
        """(1-beta) l(x) + beta l(twin), means over the batch."""
        return clean if noisy is None else (1 - self.beta) * clean + self.beta * noisy_share * noisy

    def end_epoch(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> Tally:
        """The counts of the epoch; there is nothing to remember."""
        total = Tally()
        for other in gather(self.tally):
            total.merge(other)
        self.tally = Tally()
        return total
