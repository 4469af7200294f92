"""Vanilla adversarial training at one fixed noise level ("adv" in the IMA paper's tables; Madry et al., ICLR 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, mixed, number


@dataclass(kw_only=True)
class Vanilla(FixedLevel):
    """Every sample has a twin, the worst point of PGD at the level `noise`. beta: weight of the noisy loss; 0.5 is the
    IMA paper's, 1 is Madry's."""

    word: ClassVar[str] = "adv"
    label: ClassVar[str] = "Adv"

    random_start: bool = True
    beta: float = number(0.5, 0, 1)

    @property
    def is_off(self) -> bool:
        """beta = 0 and noise = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def loss(self, batch: Batch) -> Tensor:
        """(1-beta) l(x) + beta l(twin), means over the batch."""
        return mixed(batch.clean, self.noisy(batch), self.beta)
