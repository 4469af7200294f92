"""Dice against noise, drawn: a colour per model, a dash per attack, dots for random noise; as plots of matplotlib to
be kept beside the report, and as charts of the report."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from nnunet_ima.evaluation.smallest import along_axis, by_size, survival
from nnunet_ima.evaluation.summary import number
from nnunet_ima.plots import new_figure
from nnunet_ima.report import charts
from nnunet_ima.report.tables import FIGURES, names

COLORS = ("#2166ac", "#d6604d", "#1b7837", "#762a83", "#8c510a", "#4d4d4d")
"""Apart for colour-blind eyes, and in print."""
DASHES = ("--", "-.", (0, (1, 1)), (0, (5, 5)), (0, (3, 1, 1, 1)), (0, (8, 2)))
PANELS = 5


def noise_curves(models: Sequence[dict[str, Any]]) -> Any:
    """TVDI and ADI against the noise level, bands for the 95 % intervals; a matplotlib figure."""
    figure = new_figure(9.6, 4.2)
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), FIGURES, strict=True):
        for number_, (name, model) in enumerate(zip(names(models), models, strict=True)):
            _curve(axes, key, name, model, COLORS[number_ % len(COLORS)])
        unit = "L2 norm, SD" if models[0]["norm"] == "l2" else "largest change of a pixel, SD"
        axes.set(xlabel=f"noise level ({unit})", title=title, ylim=(0, 100))
        axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def _legend(figure: Any) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)


def _curve(axes: Any, key: str, name: str, model: dict[str, Any], color: str) -> None:
    noise = [level["noise"] for level in model["levels"]]
    values = [number(level[key]) for level in model["levels"]]
    axes.plot(noise, values, "o-", color=color, label=f"{name}: {model['attack']}")
    low, high = zip(*(map(number, level[f"{key}_interval"]) for level in model["levels"]), strict=True)
    axes.fill_between(noise, low, high, color=color, alpha=0.15, linewidth=0)
    dashes = iter(DASHES)
    for other, found in model["others"].items():
        values = [number(level[key]) for level in found["levels"]]
        if found["family"] == "control":
            axes.plot(noise, values, ":", color=color, alpha=0.6, label=f"{name}: random noise")
        else:
            dash = next(dashes, "--")
            axes.plot(noise, values, linestyle=dash, marker=".", color=color, label=f"{name}: {other}")


def smallest_curves(models: Sequence[dict[str, Any]]) -> Any:
    """The share of slices that are still right against the noise, dashed that of each structure; the smallest noise
    along the axis of the cases, and by the size of what is to be found; a matplotlib figure, None where it was not
    looked for."""
    if "smallest" not in models[0]:
        return None
    figure = new_figure(13, 4.2)
    left, middle, right = figure.subplots(1, 3)
    unit = "L2 norm, SD" if models[0]["norm"] == "l2" else "largest change of a pixel, SD"
    for number_, (name, model) in enumerate(zip(names(models), models, strict=True)):
        found, color = model["smallest"], COLORS[number_ % len(COLORS)]
        left.plot(*survival(found["profile"], found["largest"]), color=color, label=name)
        for (structure, one), dash in zip(found.get("structures", {}).items(), cycle(DASHES), strict=False):
            curve = survival(one["profile"], one["largest"])
            left.plot(*curve, color=color, linestyle=dash, label=f"{name}: {structure}")
        if found["training_margins"] is not None:
            shares = [100 * (1 - float(share)) for share in found["training_margins"]]
            left.plot(list(found["training_margins"].values()), shares, "o:", color=color, label=f"{name}: margins")
        middle.plot(*along_axis(found["profile"], found["largest"]), "o-", color=color)
        right.plot(*by_size(found["size_quartiles"], found["largest"]), "o-", color=color)
    left.set(xlabel=f"noise level ({unit})", ylabel="slices that are still right (%)", ylim=(0, 100))
    middle.set(xlabel="place in the case, first slice 0, last 1", ylabel=f"median of the smallest noise ({unit})")
    right.set(
        xlabel="pixels of the structures, middle of each quarter", ylabel=f"median of the smallest noise ({unit})"
    )
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def corruption_curves(models: Sequence[dict[str, Any]]) -> Any:
    """ADI against severity, one small panel per corruption; a matplotlib figure, None where there are none."""
    kinds = list(models[0]["corruptions"])
    if not kinds:
        return None
    columns = min(PANELS, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = new_figure(9.6, 2.2 * rows + 0.4)
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, kind in zip(panels, kinds, strict=False):
        for number_, (name, model) in enumerate(zip(names(models), models, strict=True)):
            levels = model["corruptions"][kind]["levels"]
            severities, values = zip(*((level["severity"], number(level["adi"])) for level in levels), strict=True)
            axes.plot(severities, values, "o-", color=COLORS[number_ % len(COLORS)], markersize=3, label=name)
        axes.set_title(kind, fontsize=9)
        axes.set(ylim=(0, 100), xticks=range(6))
        axes.grid(alpha=0.3)
    for axes in panels[len(kinds) :]:
        axes.axis("off")
    _legend(figure)
    return figure


def noise_charts(models: Sequence[dict[str, Any]]) -> tuple[list[charts.Chart], list[charts.Series]]:
    """The same as `noise_curves` for the report, with the legend."""
    levels = models[0]["levels"]
    positions, heads = (
        [level["noise"] for level in levels],
        [f"noise level {level_told(models[0], level)}" for level in levels],
    )
    series = {
        key: [one for number_, named in _numbered(models) for one in _series(key, number_, *named)]
        for key, _ in FIGURES
    }
    drawn = [charts.chart(title, "noise level", positions, heads, series[key]) for key, title in reversed(FIGURES)]
    return drawn, charts.legend(series["adi"])


def _numbered(models: Sequence[dict[str, Any]]) -> list[tuple[int, tuple[str, dict[str, Any]]]]:
    return list(enumerate(zip(names(models), models, strict=True)))


def level_told(model: dict[str, Any], level: dict[str, Any]) -> str:
    """The noise level with its size per pixel."""
    units = "" if level["rms_in_units"] is None else f", {level['rms_in_units']:.2g} {model['unit']}"
    return f"{level['noise']:g} ({level['rms_per_pixel']:.2g} SD{units})"


def _series(key: str, color: int, name: str, model: dict[str, Any]) -> list[charts.Series]:
    levels = model["levels"]
    band = [level[f"{key}_interval"] for level in levels]
    found = [charts.Series(f"{name}: {model['attack']}", [level[key] for level in levels], color, band=band)]
    dashes = iter(charts.DASHES)
    for other, one in model["others"].items():
        control = one["family"] == "control"
        dash = charts.DOTS if control else next(dashes, charts.DASHES[0])
        values = [level[key] for level in one["levels"]]
        found.append(charts.Series(f"{name}: {'random noise' if control else other}", values, color, dash))
    return found


def structure_chart(models: Sequence[dict[str, Any]]) -> tuple[charts.Chart, list[charts.Series]] | None:
    """TVDI of each structure, with the legend; None for a single structure."""
    if len(models[0]["classes"]) < 2:
        return None
    levels = models[0]["levels"]
    series = [
        charts.Series(
            f"{name}: {structure}",
            [level["tvdi_per_class"][structure] for level in model["levels"]],
            color,
            ("", *charts.DASHES)[row % (1 + len(charts.DASHES))],
        )
        for color, (name, model) in _numbered(models)
        for row, structure in enumerate(model["classes"])
    ]
    heads = [f"noise level {level_told(models[0], level)}" for level in levels]
    title = f"Dice (%) of each structure under {models[0]['attack']}"
    return charts.chart(title, "noise level", [level["noise"] for level in levels], heads, series), series


def corruption_charts(models: Sequence[dict[str, Any]]) -> tuple[list[charts.Chart], list[charts.Series]]:
    """ADI against severity, one chart per corruption, with the legend."""
    drawn, series = [], []
    for kind in models[0]["corruptions"]:
        series = [
            charts.Series(name, [level["adi"] for level in model["corruptions"][kind]["levels"]], color)
            for color, (name, model) in _numbered(models)
        ]
        severities = [level["severity"] for level in models[0]["corruptions"][kind]["levels"]]
        heads = [f"severity {severity:g}" for severity in severities]
        drawn.append(charts.chart(kind, "severity", severities, heads, series))
    return drawn, series
