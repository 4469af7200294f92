"""Training without noise: the baseline, in the shape of the other methods."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.methods.ima import Tally, Twins


@dataclass
class Plain:
    """No twins; the loss is the clean one."""

    is_off: bool = True
    tally: Tally = field(default_factory=Tally)

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
        return Twins(x[:0], y[:0])

    def mix(self, clean: Tensor, noisy: Tensor | None, noisy_share: float) -> Tensor:
        return clean

    def end_epoch(self, gather: Callable[[Any], list[Any]] = lambda own: [own]) -> Tally:
        return Tally()
