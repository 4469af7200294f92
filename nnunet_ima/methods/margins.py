"""One margin per training sample: the noise level at which the model is estimated to start failing on it."""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.errors import UserError


@dataclass
class Outcomes:
    """What the attacks of one epoch showed: the margins that each visit of a sample proposed for it, apart for visits
    that crossed the boundary and visits that did not.

    Plain dicts, so that ranks can exchange them.
    """

    crossed: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    held: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))

    def note(self, ids: Sequence[Hashable], crossed: Sequence[bool], proposed: Sequence[float]) -> None:
        """Attacked samples only: a sample that was not attacked must not be noted."""
        for sample, sample_crossed, margin in zip(ids, crossed, proposed, strict=True):
            (self.crossed if sample_crossed else self.held)[sample].append(float(margin))

    def merge(self, other: "Outcomes") -> None:
        """Add the outcomes of another rank."""
        for own, its in ((self.crossed, other.crossed), (self.held, other.held)):
            for sample, margins in its.items():
                own[sample].extend(margins)


class MarginStore:
    """The margins of a training set, moved once per epoch (IMA paper, Algorithm 2).

    ids: the samples, any hashable (segmentation: (case, slice); classification: file name), each once.
    initial, maximum: in the units of the images; `maximum` is the paper's eps_max, infinite for methods without one.
    """

    def __init__(self, ids: Iterable[Hashable], initial: float, maximum: float = math.inf) -> None:
        self.ids = list(ids)
        self._row = {sample: row for row, sample in enumerate(self.ids)}
        if len(self._row) != len(self.ids):
            raise ValueError("ids must name every sample once.")
        if not (initial >= 0 and maximum >= 0):
            raise ValueError(f"initial and maximum must not be negative, got {initial} and {maximum}.")
        self.maximum = float(maximum)
        self.margins = torch.full((len(self.ids),), min(float(initial), self.maximum), dtype=torch.float64)
        self.visits = torch.zeros(len(self.ids), dtype=torch.long)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        mean = self.margins.mean().item() if len(self) else 0.0
        return f"MarginStore({len(self)} samples, mean margin {mean:.3f}, at most {self.maximum:g})"

    def get(self, ids: Sequence[Hashable]) -> Tensor:
        """The margins of these samples, shape (N,), float64. KeyError for an unknown one."""
        return self.margins[[self._row[sample] for sample in ids]]

    def __contains__(self, sample: Hashable) -> bool:
        return sample in self._row

    def update(self, outcomes: Outcomes) -> None:
        """Move each seen margin once: to the mean of what was proposed where it crossed, if it crossed at least once in
        the epoch, else to the mean of what was proposed where it held; then clip to [0, maximum]. Unseen margins stay.

        The result does not depend on the order in which the outcomes were noted.
        """
        for sample, proposed in (outcomes.held | outcomes.crossed).items():
            row = self._row[sample]
            self.margins[row] = sum(sorted(proposed)) / len(proposed)
            self.visits[row] += 1
        self.margins.clamp_(0, self.maximum)

    def state(self) -> dict[str, Any]:
        """Plain lists, tensors and numbers, for a checkpoint."""
        return {
            "ids": [list(sample) if isinstance(sample, tuple) else sample for sample in self.ids],
            "margins": self.margins.clone(),
            "visits": self.visits.clone(),
            "maximum": self.maximum,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue with the margins of `state`. UserError, and nothing changed, if it belongs to other samples."""
        ids = [tuple(sample) if isinstance(sample, list) else sample for sample in state["ids"]]
        margins, visits = state["margins"], state["visits"]
        if not len(ids) == len(margins) == len(visits) == len(self) or set(ids) != self._row.keys():
            known = len(set(ids) & self._row.keys())
            raise UserError(
                f"The stored margins belong to {len(ids)} samples, of which {known} are among the {len(self)} of this "
                "training set: continue with the split and the preprocessed data they were made with, or start the "
                "margins anew."
            )
        if not bool((torch.isfinite(margins) & (margins >= 0)).all()):
            raise UserError("The stored margins are damaged (negative or not finite): start the margins anew.")
        rows = torch.tensor([self._row[sample] for sample in ids])
        self.margins[rows] = margins.double().cpu().clamp(max=self.maximum)
        self.visits[rows] = visits.cpu()
