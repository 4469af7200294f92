"""AURC against closed forms, and against all orders of few cases."""

from itertools import permutations

import numpy as np
import pytest

from nnunet_ima.metrics.risk_coverage import _resampled_aurc, aurc, ideal_aurc, judged, random_aurc, risk_coverage


def test_one_bad_case_among_n() -> None:
    """Last: only the full coverage has it, 1/n of risk there. First: every coverage k/n has 1/k of it."""
    n = 8
    risk = np.eye(n)[0]
    assert aurc(np.arange(n), risk) == pytest.approx(1 / n / n)
    assert aurc(-np.arange(n), risk) == pytest.approx(sum(1 / k for k in range(1, n + 1)) / n)


def test_risks_that_ascend_by_one() -> None:
    """0, 1, ..., n - 1 in order: mean risk (k - 1) / 2 at coverage k/n, AURC (n - 1) / 4; reversed 3 (n - 1) / 4."""
    risk = np.arange(7)
    coverage, selective = risk_coverage(-risk, risk)
    assert coverage.tolist() == pytest.approx([k / 7 for k in range(1, 8)]) and selective.tolist() == [
        k / 2 for k in range(7)
    ]
    assert ideal_aurc(risk) == aurc(-risk, risk) == 1.5 and aurc(risk, risk) == 4.5 and random_aurc(risk) == 3


def test_random_and_ideal_are_mean_and_minimum_over_all_orders() -> None:
    risk = [0.1, 0.7, 0.3, 0.2, 0.9]
    every = [aurc(order, risk) for order in permutations(range(5))]
    assert random_aurc(risk) == pytest.approx(np.mean(every)) and ideal_aurc(risk) == pytest.approx(min(every))


def test_equal_confidences_count_as_the_mean_over_their_orders() -> None:
    risk = [0.1, 0.7, 0.3, 0.2, 0.9]
    orders = [aurc([5.0, *(2 + 0.1 * np.asarray(order)), 1.0], risk) for order in permutations(range(3))]
    assert aurc([5, 2, 2, 2, 1], risk) == pytest.approx(np.mean(orders))


def test_only_the_order_matters() -> None:
    generator = np.random.default_rng(0)
    confidence, risk = generator.random(30), generator.random(30)
    assert aurc(confidence, risk) == aurc(np.exp(9 * confidence), risk)
    assert aurc(confidence, 3 * risk + 1) == pytest.approx(3 * aurc(confidence, risk) + 1)


@pytest.mark.parametrize(
    ("confidence", "risk"), [([], []), ([1.0], [1.0, 2.0]), ([np.nan, 1.0], [0.0, 1.0]), ([1.0], [np.inf])]
)
def test_what_has_no_order_is_refused(confidence: list[float], risk: list[float]) -> None:
    with pytest.raises(ValueError, match="confidence and risk must"):
        aurc(confidence, risk)


def test_resamples_are_what_repeated_values_give() -> None:
    generator = np.random.default_rng(1)
    sure, risk = generator.integers(0, 4, 12).astype(float), generator.random(12)
    counts = generator.multinomial(12, np.full(12, 1 / 12), 20)
    found, means = _resampled_aurc(sure, risk, counts)
    drawn = [np.repeat(np.arange(12), row) for row in counts]
    assert found == pytest.approx([aurc(sure[rows], risk[rows]) for rows in drawn])
    assert means == pytest.approx([risk[rows].mean() for rows in drawn])


def test_intervals_resample_cases() -> None:
    generator = np.random.default_rng(0)
    risk = generator.random(40)
    names = [f"case{number}" for number in range(40)]
    good = judged(-risk + 0.05 * generator.random(40), risk, names)
    idle = judged(generator.random(40), risk, names)
    assert good.aurc.low < good.aurc.value < good.aurc.high and good.gain.low > 0
    assert idle.gain.low < 0 < idle.gain.high
    assert good.gain.value == pytest.approx(random_aurc(risk) - good.aurc.value)
    # Each value twice under the name of its case is no more to be sure of.
    twice = judged(np.repeat(-risk, 2), np.repeat(risk, 2), list(np.repeat(names, 2)))
    once = judged(-risk, risk, names)
    assert twice.gain.high - twice.gain.low == pytest.approx(once.gain.high - once.gain.low, rel=0.05)
    assert np.isnan([judged([1, 2], [0, 1], ["a", "a"]).aurc.low, judged([1, 2], [0, 1], ["a", "a"]).gain.high]).all()
