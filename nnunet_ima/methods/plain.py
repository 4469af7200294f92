"""Training without noise: the baseline, in the shape of the other methods."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nnunet_ima.methods.method import Batch, Method


@dataclass(kw_only=True)
class Plain(Method):
    """The loss is the clean one."""

    word: ClassVar[str] = "ce"
    label: ClassVar[str] = "Plain"

    @property
    def is_off(self) -> bool:
        return True

    def loss(self, batch: Batch) -> Tensor:
        return batch.clean.loss()
