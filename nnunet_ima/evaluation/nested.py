"""Noise levels as nested balls: each level of an attack goes on from the worst noise of the level below."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.evaluation.noises import Noise
from nnunet_ima.metrics.indices import slice_dice


def nested(noise: Noise, levels: Sequence[float]) -> Noise:
    """The attack for a sweep over `levels` in ascending order. Noise of one level is noise of all levels above: slices
    that are lost are left out there, the attack starts from the worst noise of the level below where it can
    (`Noise.goes_on`), and of both the worse one counts, so that what is left never grows with the level.

    The levels belong to its settings, for what is found at one of them depends on those below.
    """
    return replace(noise, nested=True, settings=noise.settings | {"nested": list(levels)})


def left(noise: Noise, counts: Tensor) -> NDArray[np.float64]:
    """What an attack has left of each slice, (N,), 0 for a lost one: its Dice, 1 where it has none; under `vanish` the
    share of the class that is still found, 0 where the slice does not show it. counts: (N, classes, 3)."""
    vanish = noise.settings.get("vanish")
    if vanish is None:
        return np.nan_to_num(slice_dice(counts.numpy()), nan=1.0)
    true_positive, _, false_negative = counts[:, vanish].double().unbind(1)
    share: NDArray[np.float64] = (true_positive / (true_positive + false_negative).clamp_min(1)).numpy()
    return share
