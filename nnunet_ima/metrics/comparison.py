"""Models compared in pairs, case by case: do they differ by more than chance?"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from nnunet_ima.metrics.statistics import holm, paired_difference

MEAN = "mean"
PerCase = Mapping[str, Sequence[float | None]]


def compare(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pair of summaries (`summary.summarise`) at each noise level that both have, on the cases that both have:
    the mean over classes ("mean": ADI) and each class.

    Per row: the two models' numbers in `models`, noise level, class, mean and median difference of the cases' Dice
    (percent points, first minus second), p of the paired Wilcoxon test adjusted after Holm over all rows (levels,
    classes and pairs), and effect size.
    """
    rows = []
    for first, second in combinations(range(len(models)), 2):
        for level in _levels(models[first]):
            if level not in _levels(models[second]):
                continue
            for name in _classes(models[first]):
                ours, theirs = (_by_case(models[model], level, name) for model in (first, second))
                cases = sorted(ours.keys() & theirs.keys())
                found = paired_difference([ours[case] for case in cases], [theirs[case] for case in cases])
                row = {"first": first, "second": second, "noise": level, "class": name, "cases": len(cases)}
                rows.append({**row, **vars(found)})
    for row, p in zip(rows, holm([row["p"] for row in rows]).tolist(), strict=True):
        row["p"] = p
    return rows


def _levels(model: dict[str, Any]) -> list[float]:
    return [level["noise"] for level in model["levels"]]


def _classes(model: dict[str, Any]) -> list[str]:
    """With a single class its Dice is the mean."""
    classes = list(model["dice_per_case"])
    return [MEAN, *classes] if len(classes) > 1 else [MEAN]


def _by_case(model: dict[str, Any], level: float, name: str) -> dict[str, float]:
    per_case: PerCase = model["adi_per_case"] if name == MEAN else model["dice_per_case"].get(name, {})
    column = _levels(model).index(level)
    return {case: float("nan") if (value := values[column]) is None else value for case, values in per_case.items()}
