"""SMD, self-adaptive margin defense (later: Adaptive Margin Evolution; Ma and Liang, Neurocomputing): margins that need
no largest one."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import input_gradient
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Batch, Run, count, number, rows_where, to_device, to_host


@dataclass(kw_only=True)
class SMD(Adaptive):
    """L = (l(x) over all + l(x') over the samples that are right) / 2 at the default beta; x' is the last right point
    within the margin. Margins grow by Delta * gamma1 * gamma2, ever less the larger they are and the steeper the loss.

    beta: weight of the noisy loss. bisections: see `bpgd`.
    """

    word: ClassVar[str] = "smd"
    label: ClassVar[str] = "SMD"

    beta: float = number(0.5, 0, 1)
    bisections: int = count(10, 0)

    @property
    def is_off(self) -> bool:
        return self.beta == 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.unit = run.unit(self.norm)
        self.step = first_step(run.epochs, self.unit)
        self.store = MarginStore(run.ids, self.step)

    def loss(self, batch: Batch) -> Tensor:
        margin, eligible = self.margins(batch)
        found = self.bpgd(batch, margin, self.bisections)
        correct, crossed, steps = to_host(found.correct, found.crossed, found.steps)
        rows = rows_where((correct > 0) & eligible)
        clean = (1 - self.beta) * batch.clean.loss()
        if not len(rows):
            return clean
        index = to_device(rows, batch)
        noisy = found.last_correct[index]
        moved = ball.size(noisy - batch.x.detach()[index], self.norm)
        distance, steepness = to_host(moved, self.steepness(batch, noisy, index))
        proposed = torch.where(crossed[rows] > 0, distance, self.grown(margin[rows], steepness))
        self.note(batch, rows, crossed[rows] > 0, proposed, steps)
        return clean + self.beta * len(rows) / len(batch.ids) * batch.forward(noisy, index).loss()

    def grown(self, margin: Tensor, steepness: Tensor) -> Tensor:
        """E + Delta * gamma1 * gamma2 (the paper's expansion), (M,)."""
        gamma1 = 0.9 ** torch.floor(margin / self.unit + 1e-6)
        return margin + self.step * gamma1 / (1 + steepness)

    def steepness(self, batch: Batch, noisy: Tensor, rows: Tensor) -> Tensor:
        """Norm of the loss's gradient at the noisy samples, (M,)."""

        def attack() -> Tensor:
            with self.attacked(batch) as model, torch.enable_grad():
                point, reference = noisy.detach().requires_grad_(True), batch.y[rows]
                loss = batch.objective.loss(model(point), reference)
                return input_gradient(loss, point, reference).float() / reference[0].numel()

        return ball.size(self.search(attack), self.norm)


def first_step(epochs: int, unit: float) -> float:
    """Delta = ceil((h(1) / N) / h(1/255)) * h(1/255), with unit = h(1/255) (L-infinity, range 1, N = 150: 2/255)."""
    return math.ceil(255 / epochs - 1e-9) * unit
