"""Intervals and tests against closed forms, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from nnunet_ima.metrics.indices import ADI, FAILURE_RATE, TVDI
from nnunet_ima.metrics.statistics import area_under_curve, case_interval, half_failure_level, holm, paired_difference


def _cases(rng: np.random.Generator, cases: int, slices: int, spread: float) -> tuple[np.ndarray, list[str]]:
    """Counts of one class whose Dice varies from case to case and hardly within a case; mean Dice 0.6."""
    dice = np.repeat(rng.normal(0.6, spread, cases), slices).clip(0.01, 0.99)
    tp = np.round(1000 * dice)
    wrong = np.round(1000 * (1 - dice))
    return np.stack([tp, wrong, wrong], 1)[:, None], [f"case{number // slices}" for number in range(cases * slices)]


def test_coverage_of_the_interval_is_what_it_says() -> None:
    """95 % intervals of 40 cases hold the true mean in about 95 % of 200 simulated studies (binomial limits)."""
    rng = np.random.default_rng(0)
    hits = 0
    for study in range(200):
        counts, cases = _cases(rng, 40, 3, 0.1)
        found = case_interval(ADI, counts, cases, resamples=300, seed=study)
        hits += found.low <= 0.6 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_slices_of_a_case_are_drawn_together() -> None:
    """Ten copies of each slice tell nothing new: the interval stays. Resampled slice by slice it would be narrower."""
    counts, cases = _cases(np.random.default_rng(1), 20, 1, 0.1)
    one = case_interval(ADI, counts, cases, resamples=2000)
    ten = case_interval(ADI, counts.repeat(10, 0), [case for case in cases for _ in range(10)], resamples=2000)
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))


def test_the_interval_is_that_of_the_t_distribution_where_it_should_be() -> None:
    counts, cases = _cases(np.random.default_rng(2), 200, 1, 0.05)
    found = case_interval(ADI, counts, cases, resamples=4000)
    dice = 2 * counts[:, 0, 0] / counts[:, 0].dot([2, 1, 1])
    low, high = stats.t.interval(0.95, 199, dice.mean(), stats.sem(dice))
    assert found.value == pytest.approx(dice.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_same_seed_draws_the_same_cases() -> None:
    counts, cases = _cases(np.random.default_rng(3), 12, 2, 0.1)
    first = case_interval(TVDI, counts, cases, resamples=200, seed=5)
    assert first == case_interval(TVDI, counts, cases, resamples=200, seed=5)
    assert first != case_interval(TVDI, counts, cases, resamples=200, seed=6)


def test_a_single_case_has_no_interval() -> None:
    found = case_interval(ADI, [[[9, 1, 1]], [[5, 5, 5]]], ["a", "a"])
    assert found.value == pytest.approx(0.7) and np.isnan(found.low) and np.isnan(found.high)


def test_every_slice_needs_a_case() -> None:
    with pytest.raises(ValueError, match="each of the 2 slices, got 1"):
        case_interval(ADI, [[[9, 1, 1]], [[5, 5, 5]]], ["a"])


def test_identical_models_do_not_differ() -> None:
    dice = np.random.default_rng(0).uniform(0, 1, 30)
    found = paired_difference(dice, dice)
    assert (found.mean, found.median, found.p, found.effect) == (0, 0, 1, 0)


def test_models_that_differ_by_chance_are_rarely_called_different() -> None:
    rng = np.random.default_rng(4)
    p = [paired_difference(*rng.normal(0.7, 0.1, (2, 30))).p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


def test_the_paired_test_is_scipys_and_its_effect_the_rank_biserial() -> None:
    first, second = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0.5, 0.5, 0.5, 0.5, 0.6])
    found = paired_difference(first, second)
    assert found.p == stats.wilcoxon(first - second, zero_method="pratt").pvalue
    # Differences .4 .3 .2 .1 -.1: ranks 5 4 3 1.5 1.5, so (13.5 - 1.5) / 15.
    assert found.effect == pytest.approx(12 / 15)
    assert found.mean == pytest.approx(0.18) and found.median == pytest.approx(0.2)


def test_cases_without_a_value_are_left_out() -> None:
    found = paired_difference([0.9, np.nan, 0.8], [0.8, 0.1, 0.6])
    assert found.mean == pytest.approx(0.15)
    assert np.isnan(paired_difference([np.nan], [1.0]).p)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, np.nan]).tolist()[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, np.nan])[1])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_failures_are_slices_not_above_the_threshold() -> None:
    """Dice 0.6, above it, below it, and a slice without any class."""
    assert FAILURE_RATE([[[6, 4, 4]], [[7, 4, 4]], [[2, 8, 8]], [[0, 0, 0]]]) == pytest.approx(2 / 3)
    assert np.isnan(FAILURE_RATE([[[0, 0, 0]]]))


def test_resampled_sums_are_the_figures_of_the_drawn_slices() -> None:
    """Against a loop that draws the cases and computes the metric anew."""
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 50, (30, 2, 3))
    cases = [f"case{number % 9}" for number in range(30)]
    draws = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), 50)
    for metric in (TVDI, ADI, FAILURE_RATE):
        slow = [
            metric(np.concatenate([counts[number::9] for number in range(9) for _ in range(drawn[number])]))
            for drawn in draws
        ]
        found = case_interval(metric, counts, cases, resamples=50)
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


@pytest.mark.parametrize(
    ("rates", "level"),
    [([0.0, 0.25, 0.75], 7.5), ([0.6, 0.7, 0.9], 0.0), ([0.0, 0.1, 0.2], np.inf), ([0.0, 0.5, 0.9], 5.0)],
)
def test_the_level_at_which_half_of_the_slices_fail(rates: list[float], level: float) -> None:
    assert half_failure_level([0, 5, 10], rates) == pytest.approx(level)


def test_levels_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        half_failure_level([5, 0], [0.1, 0.2])


def test_area_under_the_curve() -> None:
    assert area_under_curve([0, 5, 15], [80, 40, 0]) == pytest.approx((60 * 5 + 20 * 10) / 15)
    assert area_under_curve([3], [42]) == 42
