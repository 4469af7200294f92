"""What the noise sweep found: the table on the terminal, `results.json` and `slices.csv`."""

import csv
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_ima.evaluation.metrics import average_dice_index, dice_index, dice_left_out, total_voxel_dice_index
from nnunet_ima.evaluation.models import TrainedModel
from nnunet_ima.evaluation.robustness import Attack, Sweep
from nnunet_ima.files import replacing
from nnunet_ima.plots import two_panels

FIGURES = (("tvdi", "TVDI (%): Dice of all voxels"), ("adi", "ADI (%): mean Dice of the slices"))


def summarise(model: TrainedModel, found: Sweep, classes: Sequence[str], pixels: int) -> dict[str, Any]:
    """TVDI and ADI in percent per noise level, per class too; `pixels` is C*H*W of the patch."""
    levels = []
    for number, level in enumerate(found.levels):
        counts = found.counts[number]
        per_class = dice_index(counts.sum(0).astype(float))
        levels.append(
            {
                "noise": level,
                "rms_per_pixel": level / math.sqrt(pixels),
                "tvdi": _percent(total_voxel_dice_index(counts)),
                "adi": _percent(average_dice_index(counts)),
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
        "cases": len({case for case, _ in found.slices}),
        "slices": len(found.slices),
        "levels": levels,
        "seconds": round(found.seconds, 1),
    }


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * float(value), 4)


def write_results(folder: Path, models: Sequence[dict[str, Any]], attack: Attack, choice: dict[str, Any]) -> None:
    """`results.json`: figures, settings and versions of one or several models."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "models": list(models),
        "attack": {"name": "PGD", "norm": "l2", **vars(attack)},
        "choice": choice,
        "versions": {name: version(name) for name in ("nnunet-ima", "nnunetv2", "torch", "numpy")},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def write_slices(folder: Path, found: Sweep, classes: Sequence[str]) -> None:
    """`slices.csv`: one line per slice, noise level and class."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "slices.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "slice", "noise", "class", "tp", "fp", "fn", "perturbation_norm"])
        for number, level in enumerate(found.levels):
            for row, (case, index) in enumerate(found.slices):
                norm = f"{found.norms[number, row]:.6g}"
                for name, counts in zip(classes, found.counts[number, row].tolist(), strict=True):
                    writer.writerow([case, index, f"{level:g}", name, *counts, norm])


def plot_curves(folder: Path, models: Sequence[dict[str, Any]]) -> None:
    """`robustness.png`: TVDI and ADI against the noise level, one line per model."""
    with two_panels(folder / "robustness.png", sharey=True) as panels:
        for axes, (key, title) in zip(panels, FIGURES, strict=True):
            for name, model in zip(_names(models), models, strict=True):
                values = [math.nan if level[key] is None else level[key] for level in model["levels"]]
                axes.plot([level["noise"] for level in model["levels"]], values, marker="o", label=name)
            axes.set(xlabel="noise level (L2 norm, SD)", ylabel="%", title=title, ylim=(0, 100))
            axes.grid(alpha=0.3)
            axes.legend()


def _names(models: Sequence[dict[str, Any]]) -> list[str]:
    """The trainers, with their plans where one trainer occurs more than once."""
    trainers = [model["trainer"] for model in models]
    return [
        f"{model['trainer']} ({model['plans']})" if trainers.count(model["trainer"]) > 1 else model["trainer"]
        for model in models
    ]


def table(models: Sequence[dict[str, Any]]) -> str:
    """The paper's table: models by noise level, TVDI then ADI, in percent."""
    names = _names(models)
    width = max(map(len, [*names, "RMS per pixel (SD)"]))
    levels = models[0]["levels"]
    lines = []
    for key, title in FIGURES:
        lines += ["", title]
        lines.append("noise".ljust(width) + "".join(f"{level['noise']:>9g}" for level in levels))
        lines.append("RMS per pixel (SD)".ljust(width) + "".join(f"{level['rms_per_pixel']:>9.3f}" for level in levels))
        for name, model in zip(names, models, strict=True):
            lines.append(name.ljust(width) + "".join(_cell(level[key]) for level in model["levels"]))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'none' if value is None else format(value, '.2f'):>9}"
