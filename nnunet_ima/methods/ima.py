"""IMA, Increasing-Margin Adversarial training (Ma and Liang, arXiv:2005.09147), on any task."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks.boundary import Boundary
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Batch, Run, check_level, count, number, rows_where, to_host


@dataclass(kw_only=True)
class IMA(Adaptive):
    """noise: the paper's eps_max, the largest margin. margin_step: its Delta, first margin and expansion per epoch;
    None: noise / (epochs * probability that a sample is seen in one), so that a sample that is never broken ends at
    the largest. beta: weight of the noisy loss. bisections: see `bpgd`.
    """

    word: ClassVar[str] = "ima"
    label: ClassVar[str] = "IMA"
    noise_is_largest: ClassVar[bool] = True

    noise: float | None = number(None)
    margin_step: float | None = number(None)
    beta: float = number(0.5, 0, 1)
    bisections: int = count(10, 0)

    @property
    def is_off(self) -> bool:
        """beta = 0 and eps_max = 0 both mean plain training."""
        return self.beta == 0 or self.noise == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        largest = check_level(self.label, self.noise)
        self.step = largest / (run.epochs * run.seen) if self.margin_step is None else self.margin_step
        self.store = MarginStore(run.ids, self.step, largest)

    def loss(self, batch: Batch) -> Tensor:
        """[(1-beta) sum l(x) + beta sum l(x_n)] / batch size (Algorithm 1); samples without a twin add nothing."""
        found = self.boundary(batch)
        clean = (1 - self.beta) * batch.clean.loss()
        rows = rows_where(found.crossed)
        if not len(rows):
            return clean
        return clean + self.beta * len(rows) / len(batch.ids) * batch.forward(found.x[rows], rows).loss()

    def boundary(self, batch: Batch) -> Boundary:
        """The twins on the decision boundary within the margins; what that showed is noted (Algorithm 2): crossed:
        E <- (distance + E) / 2, held: E <- E + Delta."""
        margin, eligible = self.margins(batch)
        found = self.bpgd(batch, margin, self.bisections)
        correct, crossed, distance, steps = to_host(found.correct, found.crossed, found.distance, found.steps)
        proposed = torch.where(crossed > 0, (distance + margin) / 2, margin + self.step)
        rows = rows_where((correct > 0) & eligible)
        self.note(batch, rows, crossed[rows] > 0, proposed[rows], steps)
        return found
