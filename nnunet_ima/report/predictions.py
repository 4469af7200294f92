"""What `nnunet-ima-check-predictions` found: sentences, a page, and risk-coverage curves."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.evaluation.check_predictions import CLEAN, Condition, Row, conditions_of, ordered, write_cases
from nnunet_ima.evaluation.unreferenced import SCORES
from nnunet_ima.files import replacing
from nnunet_ima.metrics.risk_coverage import risk_coverage
from nnunet_ima.plots import new_figure, save
from nnunet_ima.report.pages import new_environment
from nnunet_ima.versions import versions

FIRST = 5
"""So many cases are named at most."""
MOST_PANELS = 6
NAMES = {
    "pairwise_dice": "pairwise Dice",
    "plain_dice": "Dice with the plain model",
    "smallest_noise": "smallest noise",
}
UNITS = {"pairwise_dice": " %", "plain_dice": " %", "smallest_noise": ""}


def answer(rows: Sequence[Row], judged: Sequence[dict[str, Any]], by: str, left_out: Sequence[str]) -> list[str]:
    """What to check first; what was found empty; how well the scores find bad cases; what was left out and why."""
    clean = ordered([row for row in rows if row.condition == CLEAN], by)
    return [_first(clean, by), *_empty(clean), *_lasting(clean), *_judgement(rows, judged), *left_out]


def _first(rows: Sequence[Row], by: str) -> str:
    named = [f"{row.case} ({row.scores[by]:.1f}{UNITS[by]})" for row in rows[:FIRST]]
    if len(rows) == 1:
        return f"The {NAMES[by]} of {named[0]} stands alone: a single case has no order."
    return (
        f"Check these first: {', '.join(named)}; the lower the {NAMES[by]}, the likelier is an error. cases.csv has "
        f"the order of all {len(rows)} cases."
    )


def _empty(rows: Sequence[Row]) -> list[str]:
    empty = [row.case for row in rows if row.found == 0]
    more = f" and {len(empty) - FIRST} more" if len(empty) > FIRST else ""
    return [f"The model finds nothing in {', '.join(empty[:FIRST])}{more}: is there nothing?"] if empty else []


def _lasting(rows: Sequence[Row]) -> list[str]:
    lasting = sum(row.lasting for row in rows)
    if not lasting:
        return []
    return [
        f"In {lasting} of {len(rows)} cases half of the slices last up to the largest noise, which leaves these cases "
        "in no order by this score: give a larger --largest."
    ]


def _judgement(rows: Sequence[Row], judged: Sequence[dict[str, Any]]) -> list[str]:
    if any(row.risk is None for row in rows):
        return ["Without references nothing tells how well these scores work; held-out cases, or -i with -gt, do."]
    if not judged:
        return ["AURC judges an order of cases, so that it needs two or more."]
    told = [judged[0]] if len(judged) == 1 else [judged[0], judged[-1]]
    return [_told(one) for one in told]


def _told(one: dict[str, Any]) -> str:
    best = min(one["scores"], key=lambda name: one["scores"][name]["aurc"])
    found = one["scores"][best]
    figures = f"AURC {found['aurc']:.1f}, a random order has {one['random']:.1f}, the ideal one {one['ideal']:.1f}"
    where = condition_name(one["corruption"], one["severity"])
    low = found["gain_interval"][0]
    verdict = "" if low is not None and low > 0 else "; chance alone could explain the difference to a random order"
    return f"On {one['cases']} cases with references ({where}), {NAMES[best]} finds bad ones best: {figures}{verdict}."


def condition_name(corruption: str, severity: int | None) -> str:
    if corruption == CLEAN[0]:
        return "no corruption"
    return corruption if severity is None else f"{corruption}, severity {severity}"


def picture(rows: Sequence[Row]) -> Any:
    """Risk-coverage curves: one panel per condition, all together first where there are several."""
    conditions = conditions_of(rows)
    parts = [(condition_name(*one), [row for row in rows if row.condition == one]) for one in conditions]
    parts = [*([("all together", list(rows))] if len(parts) > 1 else []), *parts][:MOST_PANELS]
    columns = min(3, len(parts))
    height = math.ceil(len(parts) / columns)
    figure = new_figure(4.6 * columns, 3.6 * height)
    panels = figure.subplots(height, columns, squeeze=False).flatten()
    for axes, (title, own) in zip(panels, parts, strict=False):
        _curves(axes, title, own)
    for axes in panels[len(parts) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=8)
    return figure


def _curves(axes: Any, title: str, rows: Sequence[Row]) -> None:
    risks = [row.risk or 0.0 for row in rows]
    for name in rows[0].scores:
        coverage, risk = risk_coverage([row.scores[name] for row in rows], risks)
        axes.plot(100 * coverage, risk, marker=".", label=NAMES[name])
    coverage, risk = risk_coverage([-risk for risk in risks], risks)
    axes.plot(100 * coverage, risk, color="black", linestyle=":", label="ideal order")
    axes.axhline(sum(risks) / len(risks), color="grey", linestyle="--", label="random order")
    axes.set(title=title, xlabel="accepted cases, surest first (%)", ylabel="risk: 100 - Dice", ylim=(0, None))
    axes.grid(alpha=0.3)


def write(folder: Path, rows: Sequence[Row], content: dict[str, Any]) -> None:
    """`cases.csv`, `scores.json`, `answer.md`, `report.html`, and `risk_coverage.png`, `.svg` where judged.

    content: `answer`, `by`, `judged` and what else `scores.json` holds.
    """
    write_cases(folder, rows, content["by"])
    content = {**content, "versions": versions("nnunetv2", "torch", "numpy")}
    with replacing(folder / "scores.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")
    with replacing(folder / "answer.md") as path:
        path.write_text(_markdown(content))
    figure = picture(rows) if content["judged"] else None
    if figure is not None:
        save(figure, folder, "risk_coverage")
    with replacing(folder / "report.html") as path:
        path.write_text(_page(rows, content, figure))


def _markdown(content: dict[str, Any]) -> str:
    lines = ["# Which predictions should I check?", "", *(f"* {sentence}" for sentence in content["answer"])]
    if content["judged"]:
        lines += ["", *table(content["judged"])]
    return "\n".join(lines) + "\n"


def table(judged: Sequence[dict[str, Any]]) -> list[str]:
    """AURC in percent by condition and score, as Markdown."""
    names = list(judged[0]["scores"])
    heads = ["AURC", "mean Dice", *(NAMES[name] for name in names), "random", "ideal"]
    rows = []
    for one in judged:
        figures = [one["mean_dice"], *(one["scores"][name]["aurc"] for name in names), one["random"], one["ideal"]]
        where = condition_name(one["corruption"], one["severity"])
        rows.append([where, *(f"{figure:.1f}" for figure in figures)])
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def _page(rows: Sequence[Row], content: dict[str, Any], figure: Any) -> str:
    conditions: list[tuple[Condition, list[Row]]] = [
        (one, ordered([row for row in rows if row.condition == one], content["by"])) for one in conditions_of(rows)
    ]
    sections = [("order", "The order")]
    if content["judged"]:
        sections.append(("judged", "How well do the scores work?"))
    return (
        new_environment()
        .get_template("predictions.html.j2")
        .render(
            answer=content["answer"],
            sections=[*sections, ("repeat", "How to repeat it")],
            content=content,
            names=NAMES,
            meanings=SCORES,
            conditions=conditions,
            condition_name=condition_name,
            figure=figure,
        )
    )
