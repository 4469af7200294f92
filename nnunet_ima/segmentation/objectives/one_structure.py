"""The objective of an attack on one structure alone: a class or region, whatever becomes of the others."""

import torch
from torch import Tensor

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective


class OneStructure(SegmentationObjective):
    """Loss: CE + soft Dice of the structure against everything else. Correct: its hard Dice is above the threshold,
    False for a slice whose reference does not show it.

    whole: the objective for all structures; number: of the structure among its foreground classes or regions, from 0.
    """

    def __init__(self, whole: SegmentationObjective, number: int) -> None:
        super().__init__(1, whole.regions, whole.ignore_label, whole.threshold)
        self.whole, self.number = whole, number

    def prediction(self, logits: Tensor) -> Tensor:
        return self._own(self.whole.prediction(logits))

    def reference(self, y: Tensor) -> tuple[Tensor, Tensor]:
        reference, valid = self.whole.reference(y)
        return self._own(reference), valid

    def soft_dice(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.whole.soft_dice(logits, y)[:, self.number, None]

    def pixel_loss(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        reference, valid = self.reference(y)
        # Binary cross-entropy of the structure's probability, whose log-odds these are.
        pixel = torch.nn.functional.binary_cross_entropy_with_logits(
            self._log_odds(logits), reference.float(), reduction="none"
        )
        return pixel[:, 0], valid

    def _log_odds(self, logits: Tensor) -> Tensor:
        if self.regions:
            return self._own(logits)
        label = self.number + 1
        others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1).logsumexp(1, keepdim=True)
        return logits[:, label, None] - others

    def _own(self, per_class: Tensor) -> Tensor:
        return per_class[:, self.number, None]
