"""IMA, Increasing-Margin Adversarial training (Ma and Liang, arXiv:2005.09147), on any task.

A method says which radius a sample gets, which point of the attack it keeps, how the losses are mixed, and what is
remembered between epochs. It knows neither nnU-Net nor classification.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.boundary import Boundary, bpgd
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.margins import MarginStore, Outcomes


@dataclass(frozen=True)
class Twins:
    """Noisy samples on the decision boundary: row i is made from sample `index[i]` of the batch."""

    x: Tensor
    index: Tensor


@dataclass
class Tally:
    """Counts of one epoch, summed over its steps."""

    samples: int = 0
    eligible: int = 0
    correct: int = 0
    crossed: int = 0
    attack_steps: int = 0
    seconds: float = 0.0

    def merge(self, other: "Tally") -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def shares(self) -> dict[str, float]:
        """Share of the eligible samples that were correct, share of those that crossed, mean steps of an attack."""
        return {
            "correct": self.correct / max(self.eligible, 1),
            "crossed": self.crossed / max(self.correct, 1),
            "attack_steps": self.attack_steps / max(self.correct, 1),
            "attack_seconds": self.seconds,
        }


@dataclass
class IMA:
    """The training method.

    store: one margin per sample that can have one (segmentation: slices with foreground in their reference).
    beta: weight of the noisy loss, 0 to 1. steps, bisections, alpha, norm, random_start, bounds: of the
    attack.
    """

    store: MarginStore
    beta: float = 0.5
    steps: int = 20
    bisections: int = 10
    alpha: float = 4.0
    norm: Norm = "l2"
    random_start: bool = False
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.outcomes = Outcomes()
        self.tally = Tally()

    @property
    def is_off(self) -> bool:
        """beta = 0 and eps_max = 0 both mean plain training."""
        return self.beta == 0 or self.store.maximum == 0

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
        """Attack the batch within its margins; the twins of the samples that crossed, and the outcomes noted.

        x, y, ids: the batch; samples whose id has no margin are not attacked.
        clean_logits: see `bpgd`.
        precision: opens the autocast context the attack shall run in.
        """
        eligible = [sample in self.store for sample in ids]
        margin = torch.zeros(len(x))
        margin[eligible] = self.store.get([sample for sample in ids if sample in self.store])
        with precision():
            found = bpgd(
                model,
                x,
                y,
                margin.to(x.device),
                objective=objective,
                norm=self.norm,
                steps=self.steps,
                bisections=self.bisections,
                alpha=self.alpha,
                random_start=self.random_start,
                bounds=self.bounds,
                clean_logits=clean_logits,
            )
        self._note(ids, torch.tensor(eligible), found)
        index = torch.nonzero(found.crossed).squeeze(1)
        return Twins(found.x[index], index)

    def _note(self, ids: Sequence[Hashable], eligible: Tensor, found: Boundary) -> None:
        correct, crossed = found.correct.cpu() & eligible, found.crossed.cpu()
        attacked = torch.nonzero(correct).squeeze(1).tolist()
        distance = found.distance.cpu()
        self.outcomes.note(
            [ids[i] for i in attacked], [bool(crossed[i]) for i in attacked], [float(distance[i]) for i in attacked]
        )
        self.tally.merge(
            Tally(len(ids), int(eligible.sum()), len(attacked), int(crossed.sum()), int(found.steps.sum()))
        )

    def mix(self, clean: Tensor, noisy: Tensor | None, noisy_share: float) -> Tensor:
        """[(1-beta) sum l(x) + beta sum l(x_n)] / batch size (Algorithm 1), from the mean losses of the clean batch
        and of its twins, which are `noisy_share` of it. Samples without a twin add nothing."""
        loss = (1 - self.beta) * clean
        return loss if noisy is None else loss + self.beta * noisy_share * noisy

    def end_epoch(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> Tally:
        """Move the margins by what the epoch showed; its counts, and a clean slate for the next one.

        gather: what all processes of a training noted, in the same order on each, so that their margins stay the same.
        """
        outcomes, tally = Outcomes(), Tally()
        noted = gather((self.outcomes, self.tally))
        for other_outcomes, other_tally in noted:
            outcomes.merge(other_outcomes)
            tally.merge(other_tally)
        tally.seconds /= len(noted)
        self.store.update(outcomes)
        self.outcomes, self.tally = Outcomes(), Tally()
        return tally
