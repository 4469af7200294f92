"""Models compared in pairs, case by case: do they differ by more than chance?"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from nnunet_ima.evaluation.statistics import holm, paired_difference


def compare(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pair of summaries (`report.summarise`) at each noise level that both have, on the cases that both have.

    Per row: the two models' numbers in `models`, noise level, mean and median difference of the cases' ADI (percent
    points, first minus second), p of the paired Wilcoxon test adjusted after Holm over all rows, and effect size.
    """
    rows = []
    for first, second in combinations(range(len(models)), 2):
        for level in _levels(models[first]):
            if level not in _levels(models[second]):
                continue
            ours, theirs = (_by_case(models[number], level) for number in (first, second))
            cases = sorted(ours.keys() & theirs.keys())
            found = paired_difference([ours[case] for case in cases], [theirs[case] for case in cases])
            rows.append({"first": first, "second": second, "noise": level, "cases": len(cases), **vars(found)})
    for row, p in zip(rows, holm([row["p"] for row in rows]).tolist(), strict=True):
        row["p"] = p
    return rows


def _levels(model: dict[str, Any]) -> list[float]:
    return [level["noise"] for level in model["levels"]]


def _by_case(model: dict[str, Any], level: float) -> dict[str, float]:
    number = _levels(model).index(level)
    return {
        case: float("nan") if values[number] is None else values[number]
        for case, values in model["adi_per_case"].items()
    }
