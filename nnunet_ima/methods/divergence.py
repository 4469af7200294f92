"""Probabilities compared: what TRADES, MART and MAIL build their losses of.

Every value is per sample; where a sample has many predictions (pixels) it is their mean over those that count.
"""

import torch
from torch import Tensor

from nnunet_ima.attacks.objective import Objective


def divergence(objective: Objective, p: Tensor, q: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """KL(p || q) of two sets of logits, (N,). weight: of each prediction, multiplied with its divergence."""
    log_p, log_q = objective.log_probabilities(p), objective.log_probabilities(q)
    each = (log_p.exp() * (log_p - log_q)).sum(1)
    return average(objective, each if weight is None else weight * each, y)


def true_probability(objective: Objective, logits: Tensor, y: Tensor) -> Tensor:
    """The probability of what is right, of each prediction, (N, ...)."""
    index, _ = objective.targets(y)
    return objective.log_probabilities(logits).gather(1, index.unsqueeze(1)).squeeze(1).exp()


def runner_up(objective: Objective, logits: Tensor, y: Tensor) -> Tensor:
    """-log(1 - max_{k != y} p_k), (N,): with cross-entropy the boosted cross-entropy of MART."""
    index, _ = objective.targets(y)
    probabilities = objective.log_probabilities(logits).exp()
    others = probabilities.scatter(1, index.unsqueeze(1), 0.0).amax(1)
    return average(objective, -torch.log1p(-others.clamp(max=1 - 1e-6)), y)


def average(objective: Objective, each: Tensor, y: Tensor) -> Tensor:
    """Mean of the predictions (N, ...) of each sample that count, (N,)."""
    _, valid = objective.targets(y)
    counted = valid.reshape(len(y), -1)
    return (each.reshape(len(y), -1) * counted).sum(1) / counted.sum(1).clamp_min(1)


class Divergence(Objective):
    """What TRADES' attack climbs: KL(p(x) || p(x')). Its references are the numbers of the samples in the batch."""

    def __init__(self, objective: Objective, clean_logits: Tensor, y: Tensor) -> None:
        self.objective, self.clean_logits, self.y = objective, clean_logits.detach(), y

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        # Summed over predictions: the gradient of a mean over pixels underflows in float16.
        reference = self.y[y]
        predictions = self.objective.targets(reference)[1][0].numel()
        return predictions * divergence(self.objective, self.clean_logits[y], logits, reference)

    def correct(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.objective.correct(logits, self.y[y])
