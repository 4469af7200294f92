"""Vanilla adversarial training at one fixed noise level ("adv" in the IMA paper's tables; Madry et al., ICLR 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.method import Batch, Method, Run, check_level, number


@dataclass(kw_only=True)
class Vanilla(Method):
    """Every sample has a twin, the worst point of PGD at the level `noise`. beta: weight of the noisy loss; 0.5 is the
    IMA paper's, 1 is Madry's."""

    word: ClassVar[str] = "adv"
    label: ClassVar[str] = "Adv"

    random_start: bool = True
    noise: float | None = number(None)
    beta: float = number(0.5, 0, 1)

    @property
    def is_off(self) -> bool:
        """beta = 0 and noise = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        check_level(self.label, self.noise)

    def loss(self, batch: Batch) -> Tensor:
        """(1-beta) l(x) + beta l(twin), means over the batch."""
        noisy = batch.forward(self.pgd(batch, check_level(self.label, self.noise)))
        return (1 - self.beta) * batch.clean.loss() + self.beta * noisy.loss()
