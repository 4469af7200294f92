"""The losses of SEA (Croce, Singh, Hein, ECCV 2024), which fail in different ways, so that their ensemble is strong.

Cross-entropy spends its force on pixels that are wrong already. Masked, it counts only pixels that are still right;
balanced, a small structure counts as much as a large one; Jensen-Shannon is bounded, so that wrong pixels lose their
pull; soft Dice asks for what is measured. No DLR loss: it needs three classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective


class _PixelObjective(SegmentationObjective):
    """Losses made of questions: which label a pixel has (one question), or for regions whether it is in each of them
    (one question per region)."""

    def _answers(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and reference (one-hot) of the answers, (N, questions, answers, H, W), and which pixels
        count, bool (N, 1, H, W)."""
        logits = logits.float()
        reference, valid = self.reference(y)
        if self.regions:
            log_probability = torch.stack([functional.logsigmoid(-logits), functional.logsigmoid(logits)], 2)
            return log_probability, torch.stack([~reference, reference], 2), valid
        truth = torch.cat([~reference.any(1, keepdim=True), reference], 1)
        return logits.log_softmax(1)[:, None], truth[:, None], valid


def _mean(pixel: Tensor, weight: Tensor) -> Tensor:
    """Sum of (N, questions, H, W) with weights of that shape over the number of pixels, (N,)."""
    return (pixel * weight).flatten(1).sum(1) / pixel[0].numel()


class _Masked(_PixelObjective):
    """Losses of the pixels that are still right."""

    def tracked(self, logits: Tensor, y: Tensor, loss: Tensor) -> Tensor:
        """Plain cross-entropy (N,), as in SEA: a masked loss falls whenever a pixel flips, so that judged by it the
        best point would be the one just before."""
        log_probability, truth, valid = self._answers(logits, y)
        return _mean(-(log_probability * truth).sum(2), valid)


class MaskedCrossEntropy(_Masked):
    """Cross-entropy of the pixels that are still right."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,), float32."""
        log_probability, truth, valid = self._answers(logits, y)
        right = (log_probability.detach().argmax(2, keepdim=True) == truth.int().argmax(2, keepdim=True)).squeeze(2)
        return _mean(-(log_probability * truth).sum(2), right & valid)


class BalancedMaskedCrossEntropy(_Masked):
    """Cross-entropy of the pixels that are still right, each class of the reference with the same total weight."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,), float32."""
        log_probability, truth, valid = self._answers(logits, y)
        truth = truth & valid[:, :, None]
        right = (log_probability.detach().argmax(2, keepdim=True) == truth.int().argmax(2, keepdim=True)).squeeze(2)
        sizes = truth.flatten(3).sum(3).view(*truth.shape[:3], *[1] * (truth.ndim - 3))
        weight = (truth / sizes.clamp_min(1)).sum(2) * valid[0].numel()
        return _mean(-(log_probability * truth).sum(2), weight * (right & valid))


class JensenShannon(_PixelObjective):
    """Jensen-Shannon divergence between the probabilities and the reference, per pixel at most log 2."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,), float32."""
        log_probability, truth, valid = self._answers(logits, y)
        # With a one-hot reference only the true answer's probability p matters:
        # 2 JS = log 2 - log(1 + p) + sum_i p_i log p_i - sum_i p_i log m_i, m = (p + truth) / 2.
        probability = log_probability.exp()
        middle = (probability + truth.float()) / 2
        true_middle = (middle * truth).sum(2)
        own = probability * (log_probability - middle.clamp_min(1e-30).log())
        return _mean((own.sum(2) - true_middle.clamp_min(1e-30).log()) / 2, valid.expand_as(true_middle))


class SoftDice(SegmentationObjective):
    """Minus the soft Dice, mean over classes: what nnU-Net trains with, without its cross-entropy."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,), float32, -1 to 0."""
        return -self.soft_dice(logits.float(), y).mean(1)


STRONG: dict[str, type[SegmentationObjective]] = {
    "mask_ce": MaskedCrossEntropy,
    "balanced_mask_ce": BalancedMaskedCrossEntropy,
    "jensen_shannon": JensenShannon,
    "soft_dice": SoftDice,
}
"""The ensemble's members, in the order in which they run."""
