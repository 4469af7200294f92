"""What the noise sweep found: the table on the terminal, `results.json` and `slices.csv`."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.evaluation.sweep import Sweep
from nnunet_ima.files import replacing
from nnunet_ima.metrics.comparison import MEAN, WHOLE, compare
from nnunet_ima.report.words import in_words_of
from nnunet_ima.segmentation.cases.slices import PLURALS
from nnunet_ima.versions import versions

FIGURES = (("tvdi", "TVDI (%): Dice of all voxels"), ("adi", "ADI (%): mean Dice of the slices"))
CASES = ("case_dice", "Dice of whole cases (%): all their attacked voxels together, mean of the cases")
FAILED = ("failed", "Slices that fail (%): Dice of 60 % or less")
CELL = 12


def results(models: Sequence[dict[str, Any]], settings: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Everything that `results.json` and the report hold. settings: what repeats the run; run: when, where, how
    long (all that differs when it is repeated)."""
    return {
        "models": list(models),
        "comparisons": compare(models),
        "settings": settings,
        "versions": versions("nnunetv2", "torch", "numpy"),
        "run": run,
    }


def write_results(folder: Path, content: dict[str, Any]) -> None:
    """`results.json`: figures, settings and versions of one or several models."""
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def write_samples(folder: Path, found: Sweep, classes: Sequence[str], sample: str) -> None:
    """`slices.csv`, of a 3D model `volumes.csv` or `patches.csv`: one line per sample (`sample` names it), noise (pgd,
    ..., random, corruptions), its family, level and class."""
    with replacing(folder / f"{PLURALS[sample]}.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", sample, "noise", "family", "level", "class", "tp", "fp", "fn", "perturbation_norm"])
        for one in found.found.values():
            for row, level in enumerate(one.levels):
                for column, (case, index) in enumerate(found.slices):
                    head = [case, index, one.noise.name, one.noise.family, f"{level:g}"]
                    for name, counts in zip(classes, one.counts[row, column].tolist(), strict=True):
                        writer.writerow([*head, name, *counts, f"{one.norms[row, column]:.6g}"])


def figures_of(models: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Keys and titles of the figures to show; slices and volumes are only comparable as whole cases."""
    mixed = len({model.get("sample", "slice") for model in models}) > 1
    return [*FIGURES, *([CASES] if mixed else []), FAILED]


def names(models: Sequence[dict[str, Any]]) -> list[str]:
    """The trainers, with their plans and configuration where one trainer occurs more than once."""
    trainers = [model["trainer"] for model in models]
    return [
        f"{model['trainer']} ({model['plans']}{_configuration(model, models)})"
        if trainers.count(model["trainer"]) > 1
        else model["trainer"]
        for model in models
    ]


def _configuration(model: dict[str, Any], models: Sequence[dict[str, Any]]) -> str:
    return f" {model['configuration']}" if len({one["configuration"] for one in models}) > 1 else ""


def table(models: Sequence[dict[str, Any]]) -> str:
    """The paper's table: models by noise level, TVDI then ADI, in percent, with intervals and the other noises; then
    the failures, the corruptions and the comparison of the models."""
    labels, levels = names(models), models[0]["levels"]
    corruptions = [f"  {name}" for model in models for name in model["corruptions"]]
    width = max(map(len, [*labels, *corruptions, "RMS per pixel (SD)"])) + 1
    head = [
        "noise".ljust(width) + "".join(f"{level['noise']:>{CELL}g}" for level in levels),
        "RMS per pixel (SD)".ljust(width) + "".join(f"{level['rms_per_pixel']:>{CELL}.3f}" for level in levels),
    ]
    lines = []
    for key, title in figures_of(models):
        lines += ["", title, *head]
        for label, model in zip(labels, models, strict=True):
            lines.append(label.ljust(width) + _cells(model["levels"], key))
            if f"{key}_interval" in model["levels"][0] and key != FAILED[0]:
                limits = [level[f"{key}_interval"] for level in model["levels"]]
                lines.append("  95 % interval".ljust(width) + "".join(_interval_cell(*limit) for limit in limits))
                lines += [
                    f"  {_called(name)}".ljust(width) + _cells(one["levels"], key)
                    for name, one in model["others"].items()
                ]
                lines += [
                    f"  fold {one['fold']} alone".ljust(width) + _cells(one["levels"], key)
                    for one in model.get("folds", [])
                ]
    lines += ["", "Noise level at which half of the slices fail"]
    lines += [name.ljust(width) + _half_cell(model) for name, model in zip(labels, models, strict=True)]
    more = [
        _sample_lines,
        _smallest_lines,
        _certified_lines,
        _volume_lines,
        _corruption_lines,
        _comparison_lines,
        _forwards_lines,
    ]
    return in_words_of(models, "\n".join([*lines, *(line for part in more for line in part(labels, models, width))]))


def _called(noise: str) -> str:
    return "random noise" if noise == "random" else noise


def _cells(levels: Sequence[dict[str, Any]], key: str) -> str:
    return "".join(_cell(level[key]) for level in levels)


def sample_title(model: dict[str, Any]) -> str:
    sample = model["strong_sample"]
    return (
        f"What a stronger attack leaves of {sample['slices']} slices: ADI (%) under {model['attack']}, and under "
        f"strong (4 x {sample['strong_steps']} steps)"
    )


def _sample_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    if "strong_sample" not in models[0]:
        return []
    lines = ["", sample_title(models[0])]
    # Nothing stands in the column without noise.
    for label, model in zip(labels, models, strict=True):
        levels = model["strong_sample"]["levels"]
        empty = " " * CELL * (len(model["levels"]) - len(levels))
        lines.append(label.ljust(width) + empty + _cells(levels, "main"))
        lines.append("  strong".ljust(width) + empty + _cells(levels, "strong"))
    return lines


def _corruption_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    if not models[0]["corruptions"]:
        return []
    head = "severity".ljust(width) + "".join(f"{severity:>{CELL}}" for severity in range(6))
    lines = ["", "ADI (%) under noise that scanners make, by severity", head]
    for label, model in zip(labels, models, strict=True):
        lines.append(label)
        lines += [
            f"  {name}".ljust(width) + _severity_cells(one["levels"], "adi")
            for name, one in model["corruptions"].items()
        ]
    lines += ["", "SSIM that the severities leave, and their amounts", head]
    for name, one in models[0]["corruptions"].items():
        lines.append(f"  {name} ({one['meaning']})")
        lines.append("    SSIM".ljust(width) + _severity_cells(one["levels"], "ssim", ".3f"))
        lines.append("    amount".ljust(width) + _severity_cells(one["levels"], "amount", ".4g"))
    return lines


def by_severity(levels: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """The levels of a corruption at the severities 0 to 5, None for one that it does not have."""
    known = {int(level["severity"]): level for level in levels}
    return [known.get(severity) for severity in range(6)]


def _severity_cells(levels: Sequence[dict[str, Any]], key: str, form: str = ".2f") -> str:
    values = [level[key] if level else None for level in by_severity(levels)]
    return "".join(f"{'' if value is None else format(value, form):>{CELL}}" for value in values)


SMALLEST_TITLE = "Smallest noise at which slices fail: quantiles; slices that fail without noise, that never fail"


def _smallest_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    if "smallest" not in models[0]:
        return []
    lines = ["", SMALLEST_TITLE, "".ljust(width) + "".join(f"{head:>{CELL}}" for head in smallest_heads(models))]
    for label, model in zip(labels, models, strict=True):
        for name, cells in smallest_rows(model):
            row = f"  {name}" if name else label
            lines.append(row.ljust(width) + "".join(f"{cell:>{CELL}}" for cell in cells))
    return lines


def smallest_heads(models: Sequence[dict[str, Any]]) -> list[str]:
    return [*(f"{float(share):.0%}" for share in models[0]["smallest"]["quantiles"]), "at 0", "lasting"]


def smallest_rows(model: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Name and cells of each row: the model (without a name), its noise per pixel, its structures, its margins."""
    found = model["smallest"]
    rows = [("", _quantile_cells(found))]
    pixels = model["pixels"] if model["norm"] == "l2" else 1
    for unit, factor in (("SD", 1.0), (model["unit"], model["units_per_sd"])):
        if unit and factor is not None:
            scaled = [None if value is None else value / math.sqrt(pixels) * factor for value in _quantiles(found)]
            rows.append((f"per pixel ({unit})", ["" if value is None else f"{value:.3g}" for value in scaled]))
    rows += [(name, _quantile_cells(one)) for name, one in found.get("structures", {}).items()]
    if found["training_margins"] is not None:
        rows.append(("margins in training", [f"{value:.2f}" for value in found["training_margins"].values()]))
    return rows


def _quantiles(found: dict[str, Any]) -> list[float | None]:
    return list(found["quantiles"].values())


def _quantile_cells(found: dict[str, Any]) -> list[str]:
    above = f"above {found['largest']:g}"
    cells = [above if value is None else f"{value:.2f}" for value in _quantiles(found)]
    return [*cells, str(found["failing"]), str(found["lasting"])]


def certified_title(model: dict[str, Any]) -> str:
    found = model["certified"]
    return (
        f"Certified Dice (%) of the model smoothed by Gaussian noise of {found['sigma']:g} SD ({found['samples']} "
        "answers a slice): no noise up to the radius leaves less"
    )


def _certified_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    if "certified" not in models[0]:
        return []
    levels = models[0]["certified"]["levels"]
    lines = ["", certified_title(models[0])]
    lines.append("radius (L2)".ljust(width) + f"{0:>{CELL}}" + "".join(f"{one['radius']:>{CELL}.2f}" for one in levels))
    for label, model in zip(labels, models, strict=True):
        found = model["certified"]
        lines.append(label.ljust(width) + _cell(found["adi"]) + _cells(found["levels"], "adi"))
        lines.append("  pixels that abstain".ljust(width) + " " * CELL + _cells(found["levels"], "abstained"))
    return lines


def _volume_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    if not models[0].get("volumes"):
        return []
    lines = ["", "Whole cases predicted by nnU-Net itself: Dice (%), mean of the structures"]
    for label, model in zip(labels, models, strict=True):
        lines.append(label.ljust(width) + _cells(model["volumes"], "foreground_dice"))
        for key, name in (("nsd", "  NSD (%)"), ("hd95_mm", "  HD95 (mm)")):
            lines += [name.ljust(width) + _cells(model["volumes"], key)] if key in model["volumes"][0] else []
    return lines


def _half_cell(model: dict[str, Any]) -> str:
    level = model["half_failure_level"]
    return f"{'above ' + format(model['levels'][-1]['noise'], 'g') if level is None else format(level, '.2g'):>{CELL}}"


def _comparison_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    rows = [row for row in compare(models) if row["class"] in (MEAN, WHOLE)]
    if not rows:
        return []
    lines = ["", "Difference of the cases' ADI, of slices and volumes that of the cases' Dice (percent points)"]
    if all(row["class"] == MEAN for row in rows):
        lines[-1] = "Difference of the cases' ADI (percent points)"
    for row in rows:
        pair = f"{labels[row['first']]} - {labels[row['second']]}"
        mean = "none" if row["mean"] is None else f"{row['mean']:+.1f}"
        lines.append(f"  noise {row['noise']:g}: {pair} {mean}, {difference_told(row)}")
    if any(row["p"] is not None for row in rows):
        lines.append("p: paired Wilcoxon test, adjusted for all levels, structures and pairs (Holm)")
    return lines


def _forwards_lines(labels: Sequence[str], models: Sequence[dict[str, Any]], width: int) -> list[str]:
    lines = ["", "Forwards of slices, all together (backward passes, too)"]
    return lines + [name.ljust(width) + forwards_told(model) for name, model in zip(labels, models, strict=True)]


def forwards_told(model: dict[str, Any]) -> str:
    """How many forwards each noise took, and the searches beside the sweep."""
    parts = dict(model["forwards"])
    for key, name in (("strong_sample", "strong on a sample"), ("smallest", "smallest noise")):
        if key in model:
            parts[name] = model[key]["forwards"]
    return ", ".join(f"{name} {'unknown' if value is None else format(value, ',')}" for name, value in parts.items())


def difference_told(row: dict[str, Any]) -> str:
    """p of a row of `compare`; with too few cases for a test the difference of each case, in points."""
    if row["differences"] is None:
        return f"p = {row['p']:.2g} ({row['cases']} cases)"
    each = ", ".join(f"{value:+.1f}" for value in row["differences"].values())
    return f"too few cases for a test ({row['cases']}{': ' if each else ''}{each})"


def _cell(value: float | None) -> str:
    return f"{'none' if value is None else format(value, '.2f'):>{CELL}}"


def _interval_cell(low: float | None, high: float | None) -> str:
    return f"{'none' if low is None or high is None else f'{low:.1f}-{high:.1f}':>{CELL}}"


def audit_lines(models: Sequence[dict[str, Any]]) -> list[str]:
    """The checks of `--audit`, per model; empty where none were asked for."""
    lines = []
    for label, model in zip(names(models), models, strict=True):
        checks = model.get("audit") or []
        lines += ["", f"Checks of the attack: {label}"] if checks else []
        lines += [f"  {check['verdict']}  {check['name']}: {check['figure']}" for check in checks]
    return lines
