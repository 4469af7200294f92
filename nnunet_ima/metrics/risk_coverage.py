"""How well does a score tell good cases from bad ones? Risk-coverage curves and the area under them, AURC.

Cases are accepted in the order of a confidence, the surest first. Coverage is the share that is accepted, the
selective risk their mean risk (1 - Dice here). AURC is the mean of the selective risk over all coverages k/n, k = 1..n
(Geifman et al., ICLR 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers"). Zenk et al. (MedIA 2025,
arXiv:2406.03323) compare failure detection in segmentation by it. Smaller is better.

Cases of equal confidence come in no order: each counts with the mean risk of its equals, which is the expectation over
all orders of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_ima.metrics.statistics import Interval, resampled

AT_ONCE = 2_000_000
"""Numbers in memory while resamples are judged."""


@dataclass(frozen=True)
class Judged:
    """aurc of a score; gain: what a random order has more. Both with 95 % intervals over cases."""

    aurc: Interval
    gain: Interval


def risk_coverage(confidence: ArrayLike, risk: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coverage k/n and selective risk, both (n,). confidence, risk: one value per case, a larger confidence is surer.

    ValueError for no case, different lengths or a value that is not finite.

    >>> risk_coverage([0.9, 0.1], [0.0, 1.0])[1].tolist()
    [0.0, 0.5]
    """
    sure, lost = np.asarray(confidence, np.float64), np.asarray(risk, np.float64)
    if sure.ndim != 1 or sure.shape != lost.shape or len(sure) == 0:
        raise ValueError(f"confidence and risk must hold one value per case, got {sure.shape} and {lost.shape}.")
    if not (np.isfinite(sure).all() and np.isfinite(lost).all()):
        raise ValueError("confidence and risk must be finite.")
    _, equal, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    means = np.bincount(equal, lost) / counts
    accepted = np.arange(1, len(sure) + 1)
    return accepted / len(sure), np.cumsum(np.repeat(means, counts)) / accepted


def aurc(confidence: ArrayLike, risk: ArrayLike) -> float:
    """Area under the risk-coverage curve, in the units of the risk; arguments as for `risk_coverage`."""
    return float(risk_coverage(confidence, risk)[1].mean())


def ideal_aurc(risk: ArrayLike) -> float:
    """AURC of the best order there is: that of the risk itself."""
    return aurc(-np.asarray(risk, np.float64), risk)


def random_aurc(risk: ArrayLike) -> float:
    """AURC of a random order, in expectation: the mean risk, at every coverage."""
    return aurc(np.zeros_like(np.asarray(risk, np.float64)), risk)


def judged(confidence: ArrayLike, risk: ArrayLike, cases: Sequence[str], seed: int = 0) -> Judged:
    """AURC and its gain over a random order, with percentile bootstrap intervals over cases drawn with replacement.

    cases: the case of each value; values of one case, under several noises, are drawn together. The same seed draws
    the same cases, so that the intervals of several scores are paired. NaN limits for a single case.
    """
    sure, lost = np.asarray(confidence, np.float64), np.asarray(risk, np.float64)
    value = aurc(sure, lost)
    number_of, draws = resampled(cases, seed=seed)
    if draws.shape[1] < 2:
        return Judged(Interval(value, np.nan, np.nan), Interval(random_aurc(lost) - value, np.nan, np.nan))
    # In parts, for all resamples of many values at once would not fit into memory.
    parts = np.array_split(draws, 1 + draws.shape[0] * len(sure) // AT_ONCE)
    found, means = np.concatenate([_resampled_aurc(sure, lost, part[:, number_of]) for part in parts], 1)
    return Judged(_interval(value, found), _interval(random_aurc(lost) - value, means - found))


def _resampled_aurc(sure: NDArray[np.float64], risk: NDArray[np.float64], counts: NDArray[Any]) -> NDArray[np.float64]:
    """AURC and mean risk (2, resamples), where each value is there as often as `counts` (resamples, n) says.

    A block of c equal confidences with mean risk m, after P others with the sum S of risks, adds to the curve
    sum_j (S + j m) / (P + j) = c m + (S - P m) (H(P + c) - H(P)) with the harmonic numbers H.
    """
    order = np.argsort(-sure, kind="stable")
    starts = np.flatnonzero(np.diff(-sure[order], prepend=np.nan) != 0)
    inside = np.add.reduceat(counts[:, order], starts, 1)
    sums = np.add.reduceat(counts[:, order] * risk[order], starts, 1)
    before, sums_before = np.cumsum(inside, 1) - inside, np.cumsum(sums, 1) - sums
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, counts.sum(1).max() + 1))])
    means = sums / np.maximum(inside, 1)
    added = sums + (sums_before - before * means) * (harmonic[before + inside] - harmonic[before])
    return np.asarray(np.stack([added.sum(1), sums.sum(1)]) / counts.sum(1))


def _interval(value: float, found: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(found, [2.5, 97.5])
    return Interval(value, float(low), float(high))
