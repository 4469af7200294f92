"""What the methods with a margin per sample share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.methods.margins import MarginStore, Outcomes
from nnunet_ima.methods.method import Batch, Gather, Method, Tally, alone


@dataclass(kw_only=True)
class Adaptive(Method):
    """Each visit of a sample proposes a new margin for it; at the epoch's end the margins move to what was proposed
    (`MarginStore.update`). `begin` of a method makes its `store`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.outcomes = Outcomes()
        self.store = MarginStore([], 0.0)

    def margins(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Margin of each sample of the batch (N,), float64, 0 for one that has none; and which have one, bool (N,);
        both on the host."""
        eligible = torch.tensor([one in self.store for one in batch.ids])
        margin = torch.zeros(len(batch.ids), dtype=torch.float64)
        margin[eligible] = self.store.get([one for one in batch.ids if one in self.store])
        return margin, eligible

    def note(self, batch: Batch, rows: Tensor, crossed: Tensor, proposed: Tensor, steps: Tensor) -> None:
        """What a visit showed of the samples `rows` of a batch: whether they crossed, and their new margins (M,);
        steps: taken by the attack on each, counted. All on the host."""
        chosen = [batch.ids[row] for row in rows.tolist()]
        self.outcomes.note(chosen, crossed.tolist(), proposed.tolist())
        eligible = sum(one in self.store for one in batch.ids)
        self.tally.merge(Tally(len(batch.ids), eligible, len(chosen), int(crossed.sum()), int(steps.sum())))

    def start_step(self) -> None:
        super().start_step()
        self.outcomes_before = self.outcomes
        self.outcomes = Outcomes()

    def end_step(self, counts: bool) -> None:
        super().end_step(counts)
        step, self.outcomes = self.outcomes, self.outcomes_before
        if counts:
            self.outcomes.merge(step)

    @contextmanager
    def unnoted(self) -> Iterator[None]:
        outcomes, self.outcomes = self.outcomes, Outcomes()
        try:
            with super().unnoted():
                yield
        finally:
            self.outcomes = outcomes

    def end_epoch(self, gather: Gather = alone) -> Tally:
        outcomes = Outcomes()
        for other in gather(self.outcomes):
            outcomes.merge(other)
        self.store.update(outcomes)
        self.outcomes = Outcomes()
        return super().end_epoch(gather)

    def state(self) -> dict[str, Any]:
        return self.store.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.store.load_state(state)
