"""The figures of one model: what a sweep counted, with intervals, by noise, level, class, case and size."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.metrics.indices import ADI, FAILURE_RATE, TVDI, dice_index, dice_left_out, mean_dice, slice_dice
from nnunet_ima.metrics.statistics import area_under_curve, case_interval, half_failure_level
from nnunet_ima.segmentation.cases.models import TrainedModel

METRICS = {"tvdi": TVDI, "adi": ADI}
QUARTILES = 4
WORST = "worst of all"


def summarise(
    model: TrainedModel,
    found: Sweep,
    classes: Sequence[str],
    pixels: float,
    units: float = math.nan,
    unit: str = "",
    sample: str = "slice",
) -> dict[str, Any]:
    """All figures in percent; None stands for what is not defined. The first attack of the sweep is the main one.

    levels: TVDI, ADI and share of failing slices (Dice not above 60 %) per noise level under the main attack, with
        95 % intervals over cases, and under "..._noise" the same for random noise of that norm.
    others, corruptions: the same figures by the name of the noise. forwards: what each noise cost, by its name, see
        `forwards.counted`.
    sample: "slice", "volume" or "patch". pixels: C*H*W of the slices, their median. units: original intensity units
        (`unit`) per SD, NaN where unknown.
    """
    cases = [case for case, _ in found.slices]
    main = next(one for one in found.found.values() if one.noise.family == "attack")
    levels = [_level(main, row, cases, classes, pixels, units) for row in range(len(main.levels))]
    control = found.found.get("random")
    for row, level in enumerate(levels):
        for key, metric in METRICS.items():
            level[f"{key}_noise"] = percent(metric(control.counts[row])) if control else None
    rates = [FAILURE_RATE(counts) for counts in main.counts]
    return {
        **model.told(),
        "classes": list(classes),
        "cases": len(set(cases)),
        "slices": len(found.slices),
        "sample": sample,
        "attack": main.noise.name,
        "norm": main.noise.settings["norm"],
        "unit": unit if math.isfinite(units) else None,
        "pixels": pixels,
        "units_per_sd": finite(units),
        "levels": levels,
        "half_failure_level": finite(half_failure_level(main.levels, rates)),
        "adi_area": finite(area_under_curve(main.levels, [number(level["adi"]) for level in levels])),
        "others": _others(found, main, cases, classes, pixels, units),
        "corruptions": _corruptions(found, cases, classes),
        "size_quartiles": size_quartiles(main.counts),
        "adi_per_case": adi_per_case(main.counts, cases),
        "case_dice_per_case": adi_per_case(*of_cases(main.counts, cases)),
        "dice_per_case": dice_per_case(main.counts, cases, classes),
        "forwards": {name: finite(one.forwards) for name, one in found.found.items()},
    }


def _level(
    found: Found, row: int, cases: Sequence[str], classes: Sequence[str], pixels: float, units: float
) -> dict[str, Any]:
    """The figures of one noise level."""
    counts, level = found.counts[row], found.levels[row]
    told = found.noise.settings
    rms = level if told.get("norm") == "linf" or "level" in told else level / math.sqrt(pixels)
    return {
        "noise": level,
        "rms_per_pixel": rms,
        "rms_in_units": finite(rms * units),
        **_figures(counts, cases),
        "tvdi_per_class": {
            name: percent(value) for name, value in zip(classes, dice_index(counts.sum(0).astype(float)), strict=True)
        },
        "dice_left_out": dice_left_out(counts),
    }


def _figures(counts: NDArray[np.int64], cases: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for key, metric in (*METRICS.items(), ("failed", FAILURE_RATE)):
        interval = case_interval(metric, counts, cases)
        figures[key] = percent(interval.value)
        figures[f"{key}_interval"] = [percent(interval.low), percent(interval.high)]
    interval = case_interval(ADI, *of_cases(counts, cases))
    return figures | {
        "case_dice": percent(interval.value),
        "case_dice_interval": [percent(interval.low), percent(interval.high)],
    }


def of_cases(counts: NDArray[np.int64], cases: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Counts (..., slices, classes, 3) summed over the slices of each case, (..., cases, classes, 3), and the cases: a
    whole case as one sample, as a 3D model has it."""
    names, rows = sorted(set(cases)), np.asarray(cases)
    return np.stack([counts[..., rows == name, :, :].sum(-3) for name in names], -3), names


def _others(
    found: Sweep, main: Found, cases: Sequence[str], classes: Sequence[str], pixels: float, units: float
) -> dict[str, Any]:
    """The other attacks, the worst of all, and random noise."""
    attacks = [one for one in found.found.values() if one.noise.family == "attack"]
    others = [one for one in found.found.values() if one is not main and one.noise.family != "corruption"]
    if len(attacks) > 1:
        others.insert(len(attacks) - 1, worst_of(attacks))
    return {
        one.noise.name: {
            "family": one.noise.family,
            "levels": [_level(one, row, cases, classes, pixels, units) for row in range(len(one.levels))],
        }
        for one in others
    }


def worst_of(attacks: Sequence[Found]) -> Found:
    """Per slice and level what the attack left that left the lowest Dice, of equal ones most wrong pixels: a slice is
    as robust as its worst attack."""
    counts = np.stack([one.counts for one in attacks])
    # No Dice means that there was nothing to find and nothing was found: no attack does better.
    dice = np.nan_to_num(np.stack([per_slice_dice(one) for one in attacks]), nan=np.inf)
    chosen = np.lexsort((-counts[..., 1:].sum((-2, -1)), dice), axis=0)[0]
    rows, columns = np.indices(chosen.shape)
    counts = counts[chosen, rows, columns]
    norms = np.stack([one.norms for one in attacks])[chosen, rows, columns]
    noise = replace(attacks[0].noise, name=WORST)
    return Found(noise, attacks[0].levels, counts, norms)


def _corruptions(found: Sweep, cases: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Per corruption its amounts, and per severity the amount, the figures and the mean L2 norm of what it changed."""
    result = {}
    for name, one in found.found.items():
        if one.noise.family == "corruption":
            # Nothing is changed at severity 0. SSIM is measured later, see `calibration`.
            amounts = [None, *one.noise.settings["amounts"]]
            rows = [
                {
                    "severity": level,
                    "amount": amounts[row],
                    "ssim": None,
                    "mean_norm": float(one.norms[row].mean()),
                    **_figures(one.counts[row], cases),
                }
                for row, level in enumerate(one.levels)
            ]
            result[name] = {**one.noise.settings, "levels": rows}
    return result


def adi_per_case(counts: NDArray[np.int64], cases: Sequence[str]) -> dict[str, list[float | None]]:
    """ADI in percent of each case alone, per noise level: what models are compared by."""
    names = np.asarray(cases)
    return {case: [percent(ADI(level[names == case])) for level in counts] for case in sorted(set(cases))}


def dice_per_case(
    counts: NDArray[np.int64], cases: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, list[float | None]]]:
    """By class and case: the mean Dice of the slices in percent, per noise level."""
    names = np.asarray(cases)
    dice = dice_index(counts.astype(float))
    return {
        name: {
            case: [percent(float(mean_dice(level[names == case, column]))) for level in dice]
            for case in sorted(set(cases))
        }
        for column, name in enumerate(classes)
    }


def size_quartiles(counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """ADI per noise level of the slices in quarters by the size of their structures (pixels of the reference, all
    classes): small structures break first, which a mean hides."""
    sizes = counts[0, :, :, [0, 2]].sum((0, 2))
    return [
        {
            "pixels": [int(sizes[rows[0]]), int(sizes[rows[-1]])],
            "slices": len(rows),
            "adi": [percent(ADI(level[rows])) for level in counts],
        }
        for rows in quarters(sizes)
    ]


def quarters(sizes: NDArray[Any]) -> list[NDArray[np.int64]]:
    """The rows of each quarter by size, from small to large; fewer parts where there are fewer rows than quarters."""
    order = np.argsort(sizes, kind="stable")
    return [rows for rows in np.array_split(order, QUARTILES) if len(rows)]


def per_slice_dice(found: Found) -> NDArray[np.float64]:
    """(levels, slices), class means; NaN for a slice without any class."""
    return np.stack([slice_dice(counts) for counts in found.counts])


def number(value: float | None) -> float:
    return math.nan if value is None else value


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * float(value), 4)
