"""Counts, Dice per slice, and the objective of an attack on a segmentation network.

A sample is a slice with the spatial axes (H, W), or a patch or volume with (Z, H, W); docstrings write (H, W) for both.
References `y` are what nnU-Net's loader gives at full resolution: label maps (N, 1, H, W), or for region-based
training one channel per region (N, R, H, W), with the ignore mask as a further channel where there is one.
Pixels with the ignore label, and those outside of the image (-1), count nowhere.
"""

import weakref
from typing import Any, Literal, get_args
from weakref import ReferenceType

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks.objective import Objective

DiceRule = Literal["mean", "max", "merged"]
DICE_RULES: tuple[DiceRule, ...] = get_args(DiceRule)


def dice_per_class(counts: Tensor) -> Tensor:
    """2TP/(2TP+FP+FN) from `counts` (..., 3) = TP, FP, FN; NaN where a class is in neither reference nor prediction."""
    # Exact up to 2^24 pixels; not every device has float64.
    tp, fp, fn = counts.float().unbind(-1)
    return 2 * tp / (2 * tp + fp + fn)


class SegmentationObjective(Objective):
    """Loss: CE + soft Dice of nnU-Net's form, per slice. Correct: hard Dice of the slice above `threshold`.

    num_foreground: number of foreground classes (labels 1..n) or regions.
    regions: sigmoid > 0.5 per channel instead of argmax.
    ignore_label: the label to leave out (label maps; with regions the last channel is the mask).
    rule: over which classes a slice's Dice is taken: `mean` over those present in its reference (default), their
        `max` (the authors' code), or `merged`, all foreground as one class.
    """

    worst = 0.0

    def __init__(
        self,
        num_foreground: int,
        regions: bool = False,
        ignore_label: int | None = None,
        threshold: float = 0.6,
        rule: DiceRule = "mean",
    ) -> None:
        self.num_foreground, self.regions, self.ignore_label = num_foreground, regions, ignore_label
        self.threshold, self.rule = threshold, rule
        self._last: tuple[ReferenceType[Tensor], int, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, label_manager: Any, threshold: float = 0.6, rule: DiceRule = "mean") -> "SegmentationObjective":
        """The objective for the labels of an nnU-Net `LabelManager`."""
        foreground = label_manager.foreground_regions if label_manager.has_regions else label_manager.foreground_labels
        return cls(len(foreground), label_manager.has_regions, label_manager.ignore_label, threshold, rule)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """CE - soft Dice per slice, (N,), float32, both with weight 1: nnU-Net's own loss of a batch of one."""
        logits = logits.float()
        pixel, valid = self.pixel_loss(logits, y)
        cross_entropy = (pixel * valid[:, 0]).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)
        return cross_entropy - self.soft_dice(logits, y).mean(1)

    def soft_dice(self, logits: Tensor, y: Tensor) -> Tensor:
        """Dice of the probabilities, (N, classes), smoothed as nnU-Net does it."""
        reference, valid = self.reference(y)
        probability = (logits.sigmoid() if self.regions else logits.softmax(1)[:, 1:]) * valid
        overlap = (probability * reference).flatten(2).sum(2)
        total = probability.flatten(2).sum(2) + reference.flatten(2).sum(2)
        return (2 * overlap + 1e-5) / (total + 1e-5)

    def pixel_loss(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each pixel (N, H, W), and which pixels count, bool (N, 1, H, W)."""
        reference, valid = self.reference(y)
        if not self.regions:
            labels = torch.where(valid[:, 0], y[:, 0], 0).long()
            return functional.cross_entropy(logits, labels, reduction="none"), valid
        pixel = functional.binary_cross_entropy_with_logits(logits, reference.float(), reduction="none")
        # nnU-Net averages over regions, but with an ignore label it sums them.
        return (pixel.sum(1) if y.shape[1] > self.num_foreground else pixel.mean(1)), valid

    def counts(self, logits: Tensor, y: Tensor) -> Tensor:
        """TP, FP, FN of the hard prediction, shape (N, classes, 3), int64."""
        reference, valid = self.reference(y)
        return overlap_counts(self.prediction(logits) & valid, reference)

    def slice_dice(self, logits: Tensor, y: Tensor) -> Tensor:
        """Hard Dice of each slice by `rule`, (N,); NaN for a slice without foreground in its reference."""
        reference, valid = self.reference(y)
        predicted = self.prediction(logits) & valid
        if self.rule == "merged":
            reference, predicted = reference.any(1, keepdim=True), predicted.any(1, keepdim=True)
        dice = dice_per_class(overlap_counts(predicted, reference))
        dice = torch.where(reference.flatten(2).any(2), dice, torch.nan)
        if self.rule == "max":
            best = dice.nan_to_num(-1.0).amax(1)
            return torch.where(best < 0, torch.nan, best)
        return dice.nanmean(1)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """Dice above the threshold; False for a slice without foreground, which has no margin."""
        return self.slice_dice(logits, y) > self.threshold

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        """Minus the class-mean Dice, as ADI counts it: -1 for a perfect slice, 0 where nothing is left to destroy."""
        return -dice_per_class(self.counts(logits, y)).nanmean(1).nan_to_num(1.0)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(N, K, H, W); with regions (N, 2, R, H, W): of each region that the pixel is outside, inside."""
        logits = logits.float()
        if not self.regions:
            return logits.log_softmax(1)
        return torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], 1)

    def targets(self, y: Tensor) -> tuple[Tensor, Tensor]:
        reference, valid = self.reference(y)
        if self.regions:
            return reference.long(), valid.expand_as(reference)
        return torch.where(valid[:, 0], y[:, 0], 0).long(), valid[:, 0]

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """From the soft Dice D of the slice and the threshold tau of a correct one: (D - tau) / (1 - tau) where D is
        above tau, (D - tau) / tau below. A mean over pixels would be swamped by background."""
        reference, _ = self.reference(y)
        present = reference.flatten(2).any(2)
        soft = torch.where(present, self.soft_dice(logits.float(), y), torch.nan).nanmean(1).nan_to_num(1.0)
        above = soft - self.threshold
        return above / torch.where(above >= 0, 1 - self.threshold, self.threshold)

    def prediction(self, logits: Tensor) -> Tensor:
        """Hard prediction of the foreground, bool (N, classes, H, W)."""
        if self.regions:
            return logits > 0
        # What `argmax` gives, ties included, in a tenth of its time on a CPU.
        return logits.max(1, keepdim=True).indices == self._labels(logits)

    def reference(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Reference of the foreground, bool (N, classes, H, W), and which pixels count, bool (N, 1, H, W).

        That of the last `y` is remembered: loss, Dice and correctness of one step ask for the same.
        """
        if y.is_inference():
            return self._reference(y)
        if self._last is None or self._last[0]() is not y or self._last[1] != y._version:
            self._last = weakref.ref(y), y._version, self._reference(y)
        return self._last[2]

    def _reference(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.regions:
            reference = y[:, : self.num_foreground].bool()
            ignored = y[:, self.num_foreground :].bool().any(1, keepdim=True)
            return reference & ~ignored, ~ignored
        valid = y >= 0
        if self.ignore_label is not None:
            valid = valid & (y != self.ignore_label)
        return (y == self._labels(y)) & valid, valid

    def _labels(self, like: Tensor) -> Tensor:
        return torch.arange(1, self.num_foreground + 1, device=like.device).view(1, -1, *[1] * (like.ndim - 2))


def overlap_counts(predicted: Tensor, reference: Tensor) -> Tensor:
    """TP, FP, FN of bool masks (N, classes, H, W), shape (N, classes, 3), int64."""
    both = (predicted & reference).flatten(2).sum(2)
    return torch.stack([both, predicted.flatten(2).sum(2) - both, reference.flatten(2).sum(2) - both], 2)
