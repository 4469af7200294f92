"""What training costs, in forwards: the same on every machine, unlike seconds."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective

if TYPE_CHECKING:
    from nnunet_ima.methods.method import Batch, Pass

PLAIN_STEP = 3.0
"""Cost of a training step without noise, in forwards of its batch: forward 1, backward 2."""


class Cost:
    """Counts forwards of one sample: a forward pass is 1, a backward pass to the image (of an attack) 1, one to all
    weights 2. A backward pass counts when it happens, by a hook of the logits; nothing is taken on trust.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self._attacks = False

    def read(self) -> int:
        """Forwards since the last reading."""
        forwards, self.forwards = self.forwards, 0
        return forwards

    def watch(self, logits: Tensor) -> Tensor:
        """Count the pass (N, ...) that gave these logits, and each backward pass from them."""
        samples = len(logits)
        self.forwards += samples
        if logits.requires_grad:
            logits.register_hook(lambda _: self._back(samples))  # type: ignore[no-untyped-call]
        return logits

    def _back(self, samples: int) -> None:
        self.forwards += samples if self._attacks else 2 * samples

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Backward passes within go to the image only."""
        self._attacks = True
        try:
            yield
        finally:
            self._attacks = False

    def counted_model(self, model: Model) -> Model:
        return lambda x: self.watch(model(x))

    def counted(self, batch: "Batch") -> "CountedBatch":
        """The batch, its training passes counted; the one over the clean images now."""
        self.watch(batch.clean.logits)
        return CountedBatch(batch, self)


@dataclass
class CountedBatch:
    """See `methods.method.Batch`."""

    batch: "Batch"
    cost: Cost

    @property
    def x(self) -> Tensor:
        return self.batch.x

    @property
    def y(self) -> Tensor:
        return self.batch.y

    @property
    def ids(self) -> Sequence[Hashable]:
        return self.batch.ids

    @property
    def objective(self) -> Objective:
        return self.batch.objective

    @property
    def clean(self) -> "Pass":
        return self.batch.clean

    @property
    def shared_logits(self) -> Tensor | None:
        return self.batch.shared_logits

    def attacked(self) -> AbstractContextManager[Model]:
        return self.batch.attacked()

    def forward(self, x: Tensor, rows: Tensor | None = None) -> "Pass":
        found = self.batch.forward(x, rows)
        self.cost.watch(found.logits)
        return found
