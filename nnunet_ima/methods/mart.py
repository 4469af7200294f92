"""MART, misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.divergence import divergence, runner_up, true_probability
from nnunet_ima.methods.fixed import FixedLevel
from nnunet_ima.methods.method import Batch, Pass, count, number


@dataclass(kw_only=True)
class MART(FixedLevel):
    """L = BCE(p(x'), y) + beta * KL(p(x) || p(x')) (1 - p_y(x)), x' the worst point within `noise`; BCE is the task's
    own loss plus -log(1 - max_{k != y} p_k(x')). Pixels are weighed one by one."""

    word: ClassVar[str] = "mart"
    label: ClassVar[str] = "MART"

    steps: int = count(10, 1)
    random_start: bool = True
    beta: float = number(6.0)

    def loss(self, batch: Batch) -> Tensor:
        noisy = self.noisy(batch)
        boosted = noisy.loss() + runner_up(batch.objective, noisy.logits, batch.y).mean()
        return boosted + self.beta * misjudged(batch, noisy).mean()


def misjudged(batch: Batch, noisy: Pass) -> Tensor:
    """KL(p(x) || p(x')) (1 - p_y(x)) of each sample, (N,)."""
    doubt = 1 - true_probability(batch.objective, batch.clean.logits, batch.y)
    return divergence(batch.objective, batch.clean.logits, noisy.logits, batch.y, doubt)
