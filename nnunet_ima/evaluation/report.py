"""What the noise sweep found: the table on the terminal, `results.json` and `slices.csv`."""

import csv
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ima.evaluation.comparison import compare
from nnunet_ima.evaluation.metrics import (
    average_dice_index,
    dice_index,
    dice_left_out,
    slice_dice,
    total_voxel_dice_index,
)
from nnunet_ima.evaluation.models import TrainedModel
from nnunet_ima.evaluation.robustness import Attack, Sweep
from nnunet_ima.evaluation.statistics import area_under_curve, case_interval, failure_rate, half_failure_level
from nnunet_ima.files import replacing
from nnunet_ima.plots import two_panels

FIGURES = (("tvdi", "TVDI (%): Dice of all voxels"), ("adi", "ADI (%): mean Dice of the slices"))
METRICS = {"tvdi": total_voxel_dice_index, "adi": average_dice_index}
CELL = 12


def summarise(model: TrainedModel, found: Sweep, classes: Sequence[str], pixels: int) -> dict[str, Any]:
    """TVDI and ADI in percent per noise level with 95 % intervals over cases, per class too, and the share of slices
    that fail (Dice not above 60 %); under "..._noise" the same for random noise of that norm.

    `pixels` is C*H*W of the patch. None stands for what is not defined.
    """
    cases = [case for case, _ in found.slices]
    levels: list[dict[str, Any]] = []
    rates = [failure_rate(slice_dice(counts)) for counts in found.counts]
    for number, level in enumerate(found.levels):
        counts = found.counts[number]
        per_class = dice_index(counts.sum(0).astype(float))
        intervals = {key: case_interval(metric, counts, cases) for key, metric in METRICS.items()}
        levels.append(
            {
                "noise": level,
                "rms_per_pixel": level / math.sqrt(pixels),
                **{key: _percent(interval.value) for key, interval in intervals.items()},
                **{f"{key}_interval": [_percent(found.low), _percent(found.high)] for key, found in intervals.items()},
                **{f"{key}_noise": _percent(metric(found.control[number])) for key, metric in METRICS.items()},
                "failed": _percent(rates[number]),
                "tvdi_per_class": {name: _percent(value) for name, value in zip(classes, per_class, strict=True)},
                "dice_left_out": dice_left_out(counts),
            }
        )
    return {
        "dataset": model.dataset,
        "trainer": model.trainer,
        "plans": model.plans,
        "configuration": model.configuration,
        "fold": model.fold,
        "checkpoint": model.checkpoint,
        "cases": len(set(cases)),
        "slices": len(found.slices),
        "levels": levels,
        "half_failure_level": _finite(half_failure_level(found.levels, rates)),
        "adi_area": _finite(area_under_curve(found.levels, [_number(level["adi"]) for level in levels])),
        "adi_per_case": adi_per_case(found.counts, cases),
        "seconds": round(found.seconds, 1),
    }


def adi_per_case(counts: NDArray[np.int64], cases: Sequence[str]) -> dict[str, list[float | None]]:
    """ADI in percent of each case alone, per noise level: what models are compared by."""
    names = np.asarray(cases)
    return {
        case: [_percent(average_dice_index(level[names == case])) for level in counts] for case in sorted(set(cases))
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * float(value), 4)


def write_results(folder: Path, models: Sequence[dict[str, Any]], attack: Attack, choice: dict[str, Any]) -> None:
    """`results.json`: figures, settings and versions of one or several models."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "models": list(models),
        "comparisons": compare(models),
        "attack": {"norm": "l2", **vars(attack)},
        "choice": choice,
        "versions": {name: version(name) for name in ("nnunet-ima", "nnunetv2", "torch", "numpy")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def write_slices(folder: Path, found: Sweep, classes: Sequence[str]) -> None:
    """`slices.csv`: one line per slice, noise level, kind of noise (attack, random) and class."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "slices.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "slice", "noise", "kind", "class", "tp", "fp", "fn", "perturbation_norm"])
        for number, level in enumerate(found.levels):
            for row, (case, index) in enumerate(found.slices):
                for kind, all_counts, norm in (
                    ("attack", found.counts, found.norms[number, row]),
                    ("random", found.control, level),
                ):
                    for name, counts in zip(classes, all_counts[number, row].tolist(), strict=True):
                        writer.writerow([case, index, f"{level:g}", kind, name, *counts, f"{norm:.6g}"])


def plot_curves(folder: Path, models: Sequence[dict[str, Any]]) -> None:
    """`robustness.png`: TVDI and ADI against the noise level, one line per model, bands for the 95 % intervals,
    dotted lines for random noise of the same norm."""
    with two_panels(folder / "robustness.png", sharey=True) as panels:
        for axes, (key, title) in zip(panels, FIGURES, strict=True):
            for name, model in zip(_names(models), models, strict=True):
                noise = [level["noise"] for level in model["levels"]]
                line = axes.plot(noise, [_number(level[key]) for level in model["levels"]], marker="o", label=name)
                low, high = zip(*(map(_number, level[f"{key}_interval"]) for level in model["levels"]), strict=True)
                axes.fill_between(noise, low, high, color=line[0].get_color(), alpha=0.15, linewidth=0)
                random = [_number(level[f"{key}_noise"]) for level in model["levels"]]
                axes.plot(noise, random, color=line[0].get_color(), linestyle=":")
            axes.set(xlabel="noise level (L2 norm, SD); dotted: random noise", title=title, ylim=(0, 100))
            axes.grid(alpha=0.3)
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _names(models: Sequence[dict[str, Any]]) -> list[str]:
    """The trainers, with their plans where one trainer occurs more than once."""
    trainers = [model["trainer"] for model in models]
    return [
        f"{model['trainer']} ({model['plans']})" if trainers.count(model["trainer"]) > 1 else model["trainer"]
        for model in models
    ]


def table(models: Sequence[dict[str, Any]]) -> str:
    """The paper's table: models by noise level, TVDI then ADI, in percent, with intervals; then the failures."""
    names, levels = _names(models), models[0]["levels"]
    width = max(map(len, [*names, "RMS per pixel (SD)"]))
    head = [
        "noise".ljust(width) + "".join(f"{level['noise']:>{CELL}g}" for level in levels),
        "RMS per pixel (SD)".ljust(width) + "".join(f"{level['rms_per_pixel']:>{CELL}.3f}" for level in levels),
    ]
    lines = []
    for key, title in (*FIGURES, ("failed", "Slices that fail (%): Dice of 60 % or less")):
        lines += ["", title, *head]
        for name, model in zip(names, models, strict=True):
            lines.append(name.ljust(width) + "".join(_cell(level[key]) for level in model["levels"]))
            if key in METRICS:
                limits = [level[f"{key}_interval"] for level in model["levels"]]
                lines.append("  95 % interval".ljust(width) + "".join(_interval_cell(*limit) for limit in limits))
                random = [level[f"{key}_noise"] for level in model["levels"]]
                lines.append("  random noise".ljust(width) + "".join(map(_cell, random)))
    lines += ["", "Noise level at which half of the slices fail"]
    lines += [name.ljust(width) + _half_cell(model) for name, model in zip(names, models, strict=True)]
    return "\n".join([*lines, *_comparison_lines(names, compare(models))])


def _half_cell(model: dict[str, Any]) -> str:
    level = model["half_failure_level"]
    return f"{'above ' + format(model['levels'][-1]['noise'], 'g') if level is None else format(level, '.2g'):>{CELL}}"


def _comparison_lines(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = ["", "Difference of the cases' ADI (percent points); paired Wilcoxon test, p after Holm"]
    for row in rows:
        pair = f"{names[row['first']]} - {names[row['second']]}"
        lines.append(f"  noise {row['noise']:g}: {pair} {row['mean']:+.1f}, p = {row['p']:.2g} ({row['cases']} cases)")
    return lines


def _cell(value: float | None) -> str:
    return f"{'none' if value is None else format(value, '.2f'):>{CELL}}"


def _interval_cell(low: float | None, high: float | None) -> str:
    return f"{'none' if low is None or high is None else f'{low:.1f}-{high:.1f}':>{CELL}}"
