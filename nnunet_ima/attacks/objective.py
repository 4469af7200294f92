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

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether the model is right on a sample, bool (N,)."""
        raise NotImplementedError

    def at(self, progress: float) -> "Objective":
        """The objective at this share (0 to 1) of an attack's steps, for losses that change on the way."""
        return self

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        """By which the worst point of a path is chosen, shape (N,); ties go to the larger loss."""
        return self.loss(logits, y).detach()


class CrossEntropy(Objective):
    """Classification: `logits` (N, K), `y` (N,) class numbers; correct means argmax equals the label."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), y, reduction="none")

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return logits.argmax(1) == y


class Margin(CrossEntropy):
    """Classification by the margin loss max_{j != y} z_j - z_y; does not saturate where cross-entropy does."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        logits = logits.float()
        true = functional.one_hot(y, logits.shape[1]).bool()
        others = logits.masked_fill(true, -torch.inf).amax(1)
        return others - logits.gather(1, y[:, None]).squeeze(1)
