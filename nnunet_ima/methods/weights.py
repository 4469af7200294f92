"""What the methods that weigh samples against each other share."""

import torch
from torch import Tensor


def scaled(weights: Tensor, breakable: Tensor | None = None) -> Tensor:
    """Weights (N,) of the samples of a batch, scaled to a mean of 1.

    breakable: bool (N,), which samples can be right or wrong at all. Only those are weighed against each other; the
    others, slices without foreground, weigh 1, for what is falsely found there shall count as ever. Default: all.
    """
    if breakable is None:
        return weights / weights.mean()
    mean = (weights * breakable).sum() / breakable.sum().clamp_min(1)
    return torch.where(breakable, weights / mean, 1.0)
