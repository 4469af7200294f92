"""Losses of attacks that go by names of their own: SegPGD and CosPGD (weighted cross-entropy), PAdam-Cos, vanish."""

from copy import copy

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective


class SegPGDObjective(SegmentationObjective):
    """SegPGD (Gu et al., ECCV 2022): wrong pixels weigh lambda, correct ones 1 - lambda, where lambda grows from 0 to
    1/2 over the steps: first make pixels wrong, then keep them so."""

    progress = 0.0

    def at(self, progress: float) -> "SegPGDObjective":
        later = copy(self)
        later.progress = progress
        return later

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Weighted cross-entropy per slice, (N,), float32."""
        pixel, valid = self.pixel_loss(logits.float(), y)
        share = self.progress / 2
        weight = torch.where(self._right(logits, y), 1 - share, share)
        return _mean(weight * pixel, valid)

    def _right(self, logits: Tensor, y: Tensor) -> Tensor:
        """Pixels whose whole prediction is right, bool (N, H, W)."""
        reference, _ = self.reference(y)
        return (self.prediction(logits) == reference).all(1)


class CosPGDObjective(SegmentationObjective):
    """CosPGD (Agnihotri et al., ICML 2024): each pixel weighs the cosine between its probabilities and its reference,
    so that pixels which are wrong already, and all the more surely, no longer count."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Weighted cross-entropy per slice, (N,), float32."""
        logits = logits.float()
        pixel, valid = self.pixel_loss(logits, y)
        answers = logits.detach() if self.regions else logits.detach().softmax(1)
        return _mean(_cosine(self, answers, y) * pixel, valid)


class CosineObjective(SegmentationObjective):
    """PAdam-Cos (Halmosi, Mohos and Jelasity, ECCV 2024): 1 - cosine between a pixel's logits and its reference.

    Bounded, so that wrong pixels lose their pull. A region has one logit, whose cosine would know its sign only: there
    it is the cosine of the probabilities of its two answers.
    """

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean over pixels per slice, (N,), float32, 0 to 2."""
        _, valid = self.reference(y)
        return _mean(1 - _cosine(self, logits.float(), y), valid)


def _cosine(objective: SegmentationObjective, answers: Tensor, y: Tensor) -> Tensor:
    """Cosine of the answers of each pixel with its one-hot reference, (N, H, W). answers: (N, K, H, W); of regions
    their logits, each of which is a question of its own with two answers, taken as probabilities."""
    reference, _ = objective.reference(y)
    if objective.regions:
        probability = torch.stack([answers.sigmoid(), 1 - answers.sigmoid()], 2)
        truth = torch.stack([reference, ~reference], 2).float()
        return functional.cosine_similarity(probability, truth, dim=2).mean(1)
    truth = torch.cat([~reference.any(1, keepdim=True), reference], 1).float()
    return functional.cosine_similarity(answers, truth, dim=1)


def _mean(pixel: Tensor, valid: Tensor) -> Tensor:
    """Mean of (N, H, W) over the pixels that count, (N,)."""
    return (pixel * valid[:, 0]).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)


class VanishObjective(SegmentationObjective):
    """Targeted: make one class vanish, whatever becomes of the others.

    Climbs how far another answer leads over the class, mean over the pixels where the class still is; the worst point
    is the one that leaves least of the class's true pixels.
    """

    target = 0

    def making_vanish(self, target: int) -> "VanishObjective":
        """The objective for the foreground class (or region) number `target`, from 0."""
        aimed = copy(self)
        aimed.target = target
        return aimed

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean lead of the best other answer over the class, (N,), float32."""
        logits = logits.float()
        if self.regions:
            lead = -logits[:, self.target]
        else:
            channel = self.target + 1
            others = torch.cat([logits[:, :channel], logits[:, channel + 1 :]], 1)
            lead = others.amax(1) - logits[:, channel]
        reference, valid = self.reference(y)
        still = (reference | self.prediction(logits.detach()))[:, self.target] & valid[:, 0] & (lead.detach() < 1)
        return (lead * still).flatten(1).sum(1) / lead[0].numel()

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        """Minus the share of the class's true pixels that are still found; 0 where the slice has none."""
        true_positive, _, false_negative = self.counts(logits, y)[:, self.target].float().unbind(1)
        return -true_positive / (true_positive + false_negative).clamp_min(1)
