"""The worst point seen so far, per sample: by badness, ties by loss."""

import math

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.objective import Objective


class Worst:
    """point: (N, ...) as the images; score: (N, 2) = badness and loss there, -inf where nothing was seen yet."""

    def __init__(self, x: Tensor) -> None:
        self.point = x.clone()
        self.score = torch.full((len(x), 2), -torch.inf, device=x.device)

    def update(self, rows: Tensor, point: Tensor, score: Tensor) -> Tensor:
        """Keep those of `point`, the candidates of the samples `rows`, that are worse; which ones, bool (rows,)."""
        worse = is_worse(score, self.score[rows])
        self.score[rows] = torch.where(worse[:, None], score, self.score[rows])
        self.point[rows] = torch.where(ball.broadcast(worse, point), point, self.point[rows])
        return worse


def scores(objective: Objective, logits: Tensor, y: Tensor, loss: Tensor | None = None) -> Tensor:
    """(N, 2) = badness and loss, detached, float32. loss: where it was computed already."""
    logits = logits.detach()
    loss = objective.loss(logits, y) if loss is None else loss
    return torch.stack([objective.badness(logits, y).float(), loss.detach().float()], 1)


def still_rising(score: Tensor, objective: Objective, goes_on: Tensor | None = None) -> Tensor | slice:
    """The rows of `score` whose badness can still grow, and which go on (bool, None: all), as an index: all of them,
    without a look at the numbers (for which the host would have to wait), where badness has no limit."""
    if objective.worst == math.inf:
        return slice(None) if goes_on is None else torch.nonzero(goes_on).squeeze(1)
    rising = score[:, 0] < objective.worst
    return torch.nonzero(rising if goes_on is None else rising & goes_on).squeeze(1)


def is_worse(score: Tensor, best: Tensor) -> Tensor:
    """Rows (badness, loss) compared in that order; a NaN is never worse."""
    return (score[:, 0] > best[:, 0]) | ((score[:, 0] == best[:, 0]) & (score[:, 1] > best[:, 1]))
