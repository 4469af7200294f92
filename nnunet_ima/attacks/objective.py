"""What an attack needs of a task: per-sample loss, per-sample correctness, and how bad a point is."""

import math

import torch
from torch import Tensor
from torch.nn import functional


class Objective:
    """The interface; `logits` (N, K, ...) and `y` (N, ...) are what the task's model gives and its references.

    Everything is per sample: no value may depend on the other samples of the batch.
    """

    worst: float = math.inf
    """Badness that cannot be exceeded: an attack that looks for the worst point stops a sample there."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the attack climbs, shape (N,), differentiable."""
        raise NotImplementedError

    def tracked(self, logits: Tensor, y: Tensor, loss: Tensor) -> Tensor:
        """What Auto-PGD judges its steps by, (N,): the loss (N,), unless that falls where an attack succeeds."""
        return loss

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether the model is right on a sample, bool (N,)."""
        raise NotImplementedError

    def at(self, progress: float) -> "Objective":
        """The objective at this share (0 to 1) of an attack's steps, for losses that change on the way."""
        return self

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        """By which the worst point of a path is chosen, shape (N,); ties go to the larger loss."""
        return self.loss(logits, y).detach()

    # What the training methods that weigh probabilities ask for besides.

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(N, K, ...): over dimension 1 the log-probabilities of each prediction (segmentation: of each pixel)."""
        raise NotImplementedError

    def targets(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of each prediction (N, ...) the right one of the K, int64, and whether it counts, bool."""
        raise NotImplementedError

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """How far each sample is from being wrong, (N,), from -1 (wrong for certain) to 1; negative where wrong."""
        raise NotImplementedError


class CrossEntropy(Objective):
    """Classification: `logits` (N, K), `y` (N,) class numbers; correct means argmax equals the label."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), y, reduction="none")

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y

    def log_probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(1)

    def targets(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.ones_like(y, dtype=torch.bool)

    def lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """MAIL's probabilistic margin: p_y - max_{j != y} p_j."""
        probabilities = logits.float().softmax(1)
        true = functional.one_hot(y, logits.shape[1]).bool()
        return probabilities[true] - probabilities.masked_fill(true, -torch.inf).amax(1)


class Margin(CrossEntropy):
    """Classification by the margin loss max_{j != y} z_j - z_y; does not saturate where cross-entropy does."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        logits = logits.float()
        true = functional.one_hot(y, logits.shape[1]).bool()
        others = logits.masked_fill(true, -torch.inf).amax(1)
        return others - logits.gather(1, y[:, None]).squeeze(1)
