"""`report.html`: one file that needs nothing beside it, for people who were not there when it was made."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from nnunet_ima.evaluation.audit import worst_verdict
from nnunet_ima.evaluation.comparison import MEAN
from nnunet_ima.evaluation.pictures import COLORS, MAGNIFICATION, Picture, png
from nnunet_ima.evaluation.report import FAILED, FIGURES, names
from nnunet_ima.evaluation.summary import number
from nnunet_ima.files import replacing

LINES = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#8c510a", "#4d4d4d")
CONTROL = "#999999"


def write_report(
    folder: Path,
    content: dict[str, Any],
    shown: Sequence[tuple[float, Sequence[Picture]]],
    margins: Sequence[str | None],
) -> None:
    """content: of `report.results`; shown, margins: per model the noise level and the pictures of its slices, and its
    margins histogram (base64 PNG), where it has one."""
    models = content["models"]
    environment = Environment(
        loader=PackageLoader("nnunet_ima.evaluation"), autoescape=select_autoescape(default=True), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "interval": _interval, "p_value": _p_value}
    text = environment.get_template("report.html.j2").render(
        content=content,
        models=list(zip(names(models), models, shown, margins, strict=True)),
        figures=(*FIGURES, FAILED),
        curves=_curves(models),
        corruptions=_corruption_curves(models),
        comparisons=[row | {"pair": _pair(row, models)} for row in content["comparisons"]],
        mean=MEAN,
        verdict=worst_verdict,
        legend=COLORS,
        magnification=MAGNIFICATION,
    )
    with replacing(folder / "report.html") as path:
        path.write_text(text, encoding="utf-8")


def _pair(row: dict[str, Any], models: Sequence[dict[str, Any]]) -> str:
    labels = names(models)
    return f"{labels[row['first']]} - {labels[row['second']]}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _interval(limits: Sequence[float | None]) -> str:
    return "" if None in limits else f"{limits[0]:.1f} to {limits[1]:.1f}"


def _p_value(value: float) -> str:
    return "none" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _curves(models: Sequence[dict[str, Any]]) -> str:
    """TVDI and ADI against noise: a colour per model, a dash per attack, grey dots for random noise."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        figure = _figure(9.6, 4.2)
        for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), FIGURES, strict=True):
            for name, model, color in zip(names(models), models, LINES, strict=False):
                _curve(axes, key, name, model, color)
            unit = "L2 norm, SD" if models[0]["norm"] == "l2" else "largest change of a pixel, SD"
            axes.set(xlabel=f"noise level ({unit})", title=title, ylim=(0, 100))
            axes.grid(alpha=0.3)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        return png(figure)


def _curve(axes: Any, key: str, name: str, model: dict[str, Any], color: str) -> None:
    noise = [level["noise"] for level in model["levels"]]
    axes.plot(noise, [number(level[key]) for level in model["levels"]], "o-", color=color,
              label=f"{name}: {model['attack']}")  # fmt: skip
    low, high = zip(*(map(number, level[f"{key}_interval"]) for level in model["levels"]), strict=True)
    axes.fill_between(noise, low, high, color=color, alpha=0.15, linewidth=0)
    styles = iter(("--", "-.", (0, (1, 1)), (0, (5, 5)), (0, (3, 1, 1, 1)), (0, (8, 2))))
    for other, found in model["others"].items():
        values = [number(level[key]) for level in found["levels"]]
        if found["family"] == "control":
            axes.plot(noise, values, ":", color=color, alpha=0.6, label=f"{name}: random noise")
        else:
            axes.plot(noise, values, linestyle=next(styles, "--"), marker=".", color=color, label=f"{name}: {other}")


def _corruption_curves(models: Sequence[dict[str, Any]]) -> str | None:
    """ADI against severity, one small panel per corruption."""
    import matplotlib.style

    kinds = list(models[0]["corruptions"])
    if not kinds:
        return None
    columns = min(5, len(kinds))
    rows = -(-len(kinds) // columns)
    with matplotlib.style.context("default"):
        figure = _figure(9.6, 2.2 * rows + 0.4)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes, kind in zip(panels, kinds, strict=False):
            for name, model, color in zip(names(models), models, LINES, strict=False):
                levels = model["corruptions"][kind]["levels"]
                axes.plot([level["severity"] for level in levels], [number(level["adi"]) for level in levels], "o-",
                          color=color, markersize=3, label=name)  # fmt: skip
            axes.set_title(kind, fontsize=9)
            axes.set(ylim=(0, 100), xticks=range(6))
            axes.grid(alpha=0.3)
        for axes in list(panels)[len(kinds) :]:
            axes.axis("off")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        return png(figure)
