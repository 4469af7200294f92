"""Models compared in pairs: from how many cases on there is a test."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from nnunet_ima.metrics.comparison import FEWEST_CASES, compare


def _model(dice: Sequence[float | None]) -> dict[str, Any]:
    per_case = {f"case{number}": [value] for number, value in enumerate(dice)}
    return {"levels": [{"noise": 5.0}], "adi_per_case": per_case, "dice_per_case": {"box": per_case}}


def test_six_cases_are_tested_five_are_listed() -> None:
    """Six cases that all differ one way: p = 2 / 2^6. Five of them could only reach 2 / 2^5 = 0.06."""
    better, worse = [90.0, 80, 70, 60, 50, 40], [80.0, 72, 63, 54, 45, 36]
    (tested,) = compare([_model(better), _model(worse)])
    assert tested["p"] == pytest.approx(2 / 2**6) and tested["differences"] is None
    (listed,) = compare([_model(better[:5]), _model(worse[:5])])
    assert listed["p"] is None and listed["cases"] == 5 == FEWEST_CASES - 1
    assert listed["differences"] == {"case0": 10, "case1": 8, "case2": 7, "case3": 6, "case4": 5}
    assert listed["mean"] == pytest.approx(7.2) and listed["effect"] == 1


def test_cases_without_a_dice_do_not_count_as_cases() -> None:
    (row,) = compare([_model([90, 80, 70, 60, 50, None]), _model([80.0, 72, 63, 54, 45, 36])])
    assert row["cases"] == 5 and row["p"] is None and "case5" not in row["differences"]


def test_a_comparison_of_no_cases_is_valid_json() -> None:
    rows = compare([_model([None]), _model([50.0])])
    assert rows[0]["cases"] == 0 and rows[0]["differences"] == {}
    json.loads(json.dumps(rows, allow_nan=False))


def test_listed_rows_do_not_count_for_holm() -> None:
    """The second class is in five cases only: the first one's p is not doubled for it."""
    first, second = _model([90.0, 80, 70, 60, 50, 40]), _model([80.0, 72, 63, 54, 45, 36])
    for model in (first, second):
        whole = model["dice_per_case"]["box"]
        model["dice_per_case"]["ring"] = {case: values for case, values in whole.items() if case != "case0"}
    rows = {row["class"]: row["p"] for row in compare([first, second])}
    assert rows["mean"] == rows["box"] == pytest.approx(2 * 2 / 2**6) and rows["ring"] is None
