"""How sure a figure is, and whether two models differ: cases are resampled and compared, never slices.

The slices of a case resemble each other; as if independent, they would promise more than they know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats

from nnunet_ima.metrics.indices import AdditiveMetric, validated

RESAMPLES = 10_000


def resampled(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Groups drawn with replacement: the number of each sample's group (N,), and how often each group is drawn in each
    resample (resamples, groups)."""
    names, number_of = np.unique(np.asarray(groups), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return number_of, draws


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float


def case_interval(
    metric: AdditiveMetric,
    counts: ArrayLike,
    cases: Sequence[str],
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of `metric` over cases drawn with replacement, all slices of a case together.

    counts: (slices, classes, 3) = TP, FP, FN; cases: the case of each slice. The same seed draws the same cases, so
    that intervals of several models and noise levels on the same cases are paired. NaN limits for a single case.
    """
    parts = metric.parts(validated(counts))
    if len(cases) != len(parts):
        raise ValueError(f"cases must name the case of each of the {len(parts)} slices, got {len(cases)}.")
    number_of, draws = resampled(cases, resamples, seed)
    value = float(metric.combine(parts.sum(0)))
    if draws.shape[1] < 2:
        return Interval(value, float("nan"), float("nan"))
    per_case = np.zeros((draws.shape[1], parts.shape[1]))
    np.add.at(per_case, number_of, parts)
    found = metric.combine(draws @ per_case)
    found = found[np.isfinite(found)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(found, [tail, 100 - tail]) if len(found) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Two models on the same cases: mean and median of the paired differences, p of the two-sided Wilcoxon
    signed-rank test (zeros by Pratt), and the matched-pairs rank-biserial correlation, -1 to 1, as effect size."""

    mean: float
    median: float
    p: float
    effect: float


def paired_difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """`first` minus `second`, one value per case in the same order; cases with a NaN in either are left out.

    p is 1 where all differences are 0, NaN where no case is left.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"first and second must hold one value per case, got shapes {a.shape} and {b.shape}.")
    difference = (a - b)[np.isfinite(a - b)]
    if len(difference) == 0:
        return Difference(np.nan, np.nan, np.nan, np.nan)
    if not difference.any():
        return Difference(0.0, 0.0, 1.0, 0.0)
    p = float(stats.wilcoxon(difference, zero_method="pratt").pvalue)
    moved = difference[difference != 0]
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    return Difference(float(difference.mean()), float(np.median(difference)), p, effect)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p values adjusted for their number (Holm's step-down method); NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def half_failure_level(levels: Sequence[float], rates: Sequence[float]) -> float:
    """The noise level at which half of the slices fail, linear between the levels; inf if it is not reached, and the
    first level if half fail there already."""
    if len(levels) == 0 or list(levels) != sorted(levels):
        raise ValueError(f"levels must be in ascending order, got {list(levels)}.")
    above = next((number for number, rate in enumerate(rates) if rate >= 0.5), None)
    if above is None:
        return float("inf")
    if above == 0:
        return float(levels[0])
    below_rate, above_rate = rates[above - 1], rates[above]
    share = (0.5 - below_rate) / (above_rate - below_rate)
    return float(levels[above - 1] + share * (levels[above] - levels[above - 1]))


def area_under_curve(levels: Sequence[float], values: Sequence[float]) -> float:
    """Mean of a figure over the noise levels from the first to the last (trapezoids over their width)."""
    if len(levels) < 2:
        return float(values[0])
    width = levels[-1] - levels[0]
    return float(integrate.trapezoid(values, levels) / width)
