"""One training step of nnU-Net, as the methods see it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.segmentation.blocks import SampleId


def _take(parts: Any, rows: Any) -> Any:
    """The same samples of each resolution of a deeply supervised network, or of a single tensor."""
    return [part[rows] for part in parts] if isinstance(parts, list | tuple) else parts[rows]


def full_size(parts: Any) -> Tensor:
    result: Tensor = parts[0] if isinstance(parts, list | tuple) else parts
    return result


@dataclass
class SegmentationPass:
    """Outputs of the network and their references, each a tensor or one per resolution.

    loss_of: nnU-Net's own loss of them. loss_alone: the same without exchange between ranks.
    """

    outputs: Any
    target: Any
    loss_of: Callable[[Any, Any], Tensor]
    loss_alone: Callable[[Any, Any], Tensor]

    @property
    def logits(self) -> Tensor:
        return full_size(self.outputs)

    def loss(self) -> Tensor:
        return self.loss_of(self.outputs, self.target)

    def losses(self) -> Tensor:
        """nnU-Net's loss of a batch of one, for each slice."""
        slices = [slice(row, row + 1) for row in range(len(self.logits))]
        return torch.stack([self.loss_alone(_take(self.outputs, row), _take(self.target, row)) for row in slices])


@dataclass
class SegmentationBatch:
    """See `methods.method.Batch`. network: for training passes."""

    x: Tensor
    target: Any
    ids: Sequence[SampleId | None]
    objective: Objective
    clean: SegmentationPass
    shared_logits: Tensor | None
    network: Callable[[Tensor], Any]
    attacked: Callable[[], AbstractContextManager[Model]]

    @property
    def y(self) -> Tensor:
        return full_size(self.target)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> SegmentationPass:
        target = self.target if rows is None else _take(self.target, rows)
        return SegmentationPass(self.network(x), target, self.clean.loss_alone, self.clean.loss_alone)
