"""`report.html`: one file that needs nothing beside it, for people who were not there when it was made."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.evaluation.audit import worst_verdict
from nnunet_ima.files import replacing
from nnunet_ima.metrics.comparison import MEAN
from nnunet_ima.plots import png, save
from nnunet_ima.report.curves import corruption_curves, noise_curves
from nnunet_ima.report.pages import new_environment
from nnunet_ima.report.pictures import COLORS, MAGNIFICATION, Picture
from nnunet_ima.report.tables import FAILED, FIGURES, names


def write_report(
    folder: Path,
    content: dict[str, Any],
    shown: Sequence[tuple[float, Sequence[Picture]]],
    margins: Sequence[str | None],
) -> None:
    """`report.html`, and each of its plots as PNG and SVG.

    content: of `report.results`; shown, margins: per model the noise level and the pictures of its slices, and its
    margins histogram (base64 PNG), where it has one."""
    models = content["models"]
    curves, corruptions = noise_curves(models), corruption_curves(models)
    environment = new_environment()
    environment.filters |= {"png": png, "percent": _percent, "interval": _interval, "p_value": _p_value}
    text = environment.get_template("report.html.j2").render(
        content=content,
        models=list(zip(names(models), models, shown, margins, strict=True)),
        figures=(*FIGURES, FAILED),
        curves=png(curves),
        corruptions=png(corruptions) if corruptions else None,
        comparisons=[row | {"pair": _pair(row, models)} for row in content["comparisons"]],
        mean=MEAN,
        verdict=worst_verdict,
        legend=COLORS,
        magnification=MAGNIFICATION,
    )
    with replacing(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")
    save(curves, folder, "robustness")
    if corruptions:
        save(corruptions, folder, "corruptions")
    if len(models) == 1:
        for picture in shown[0][1]:
            save(picture.figure, folder, f"slice_{picture.name.lower()}")


def _pair(row: dict[str, Any], models: Sequence[dict[str, Any]]) -> str:
    labels = names(models)
    return f"{labels[row['first']]} - {labels[row['second']]}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _interval(limits: Sequence[float | None]) -> str:
    return "" if None in limits else f"{limits[0]:.1f} to {limits[1]:.1f}"


def _p_value(value: float) -> str:
    return "none" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
