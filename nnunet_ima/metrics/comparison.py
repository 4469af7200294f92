"""Models compared in pairs, case by case: do they differ by more than chance?"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from nnunet_ima.metrics.statistics import holm, paired_difference

MEAN = "mean"
WHOLE = "whole cases"
"""The class of rows that compare a model of slices with one of volumes: the mean over classes of each whole case."""
FEWEST_CASES = 6
"""With five cases or fewer the paired test cannot reach p < 0.05: even if all differ one way, p = 2 / 2^5 = 0.06."""
PerCase = Mapping[str, Sequence[float | None]]


def compare(models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pair of summaries (`summary.summarise`) at each noise level that both have, on the cases that both have:
    the mean over classes ("mean": ADI) and each class; of slices and volumes that of whole cases.

    Per row: the two models' numbers in `models`, noise level, class, number of cases, mean and median difference of the
    cases' Dice (percent points, first minus second), p of the paired Wilcoxon test adjusted after Holm over all rows
    with a test (levels, classes and pairs), effect size, and `differences`. Fewer than `FEWEST_CASES` cases are too few
    for a test: then p is None and `differences` holds the difference of each case by its name; otherwise it is None.
    Figures of no case at all are None.
    """
    rows = []
    for first, second in combinations(range(len(models)), 2):
        for level in _levels(models[first]):
            if level not in _levels(models[second]):
                continue
            alike = models[first].get("sample") == models[second].get("sample")
            for name in _classes(models[first]) if alike else [WHOLE]:
                ours, theirs = (_by_case(models[model], level, name) for model in (first, second))
                row = {"first": first, "second": second, "noise": level, "class": name}
                rows.append({**row, **_compared(ours, theirs)})
    for row, p in zip(rows, holm([math.nan if row["p"] is None else row["p"] for row in rows]).tolist(), strict=True):
        row["p"] = _finite(p)
    return rows


def _compared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """The cases that both models have a Dice of."""
    pairs = {case: (ours[case], theirs[case]) for case in sorted(ours.keys() & theirs.keys())}
    pairs = {case: pair for case, pair in pairs.items() if all(map(math.isfinite, pair))}
    found = paired_difference(*([pair[side] for pair in pairs.values()] for side in (0, 1)))
    few = len(pairs) < FEWEST_CASES
    return {
        "cases": len(pairs),
        "mean": _finite(found.mean),
        "median": _finite(found.median),
        "p": None if few else found.p,
        "effect": _finite(found.effect),
        "differences": {case: round(first - second, 4) for case, (first, second) in pairs.items()} if few else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _levels(model: dict[str, Any]) -> list[float]:
    return [level["noise"] for level in model["levels"]]


def _classes(model: dict[str, Any]) -> list[str]:
    """With a single class its Dice is the mean."""
    classes = list(model["dice_per_case"])
    return [MEAN, *classes] if len(classes) > 1 else [MEAN]


def _by_case(model: dict[str, Any], level: float, name: str) -> dict[str, float]:
    keys = {MEAN: "adi_per_case", WHOLE: "case_dice_per_case"}
    per_case: PerCase = model[keys[name]] if name in keys else model["dice_per_case"].get(name, {})
    column = _levels(model).index(level)
    return {case: float("nan") if (value := values[column]) is None else value for case, values in per_case.items()}
