"""One model's network with other weights in it: the Dice of each, on the same slices under the same attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nnunet_ima.evaluation.evaluate import Choice, prepare
from nnunet_ima.evaluation.noises import attack
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.metrics.indices import average_dice_index
from nnunet_ima.segmentation.cases.models import TrainedModel


class Weighed:
    """A model, prepared for `choice`, whose main attack counts."""

    def __init__(self, model: TrainedModel, choice: Choice, preprocessed: Path, device: torch.device) -> None:
        self.model, self.choice = model, choice
        self.subject = prepare(model, choice, preprocessed, device)
        self.network = self.subject.predictor.network
        self.weights = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        """The model's own."""

    def dice(self, weights: Mapping[str, Tensor]) -> Sequence[float]:
        """ADI in percent without noise and at each level, with these weights."""
        self.network.load_state_dict(weights)
        name, settings = self.choice.attacks[0], self.choice.settings
        plan = [(attack(name, settings), [0.0, *self.choice.levels])]
        slices = self.subject.slices
        swept = sweep(
            self.subject.target,
            slices.places,
            plan,
            self.choice.batch_size,
            settings.seed,
            progress=False,
            read=slices.read,
        )
        return [100 * average_dice_index(counts) for counts in swept.found[name].counts]
