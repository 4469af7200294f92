"""`report.html`: one file that needs nothing beside it, for people who were not there when it was made."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nnunet_ima.evaluation.audit import worst_verdict
from nnunet_ima.files import replacing
from nnunet_ima.metrics.comparison import MEAN
from nnunet_ima.plots import png, save
from nnunet_ima.report.answer import answer
from nnunet_ima.report.curves import (
    corruption_charts,
    corruption_curves,
    level_told,
    noise_charts,
    noise_curves,
    smallest_curves,
    structure_chart,
)
from nnunet_ima.report.pages import new_environment
from nnunet_ima.report.pictures import MAGNIFICATION, Picture
from nnunet_ima.report.tables import (
    SMALLEST_TITLE,
    by_severity,
    certified_title,
    figures_of,
    forwards_told,
    names,
    sample_title,
    smallest_heads,
    smallest_rows,
)
from nnunet_ima.report.words import in_words_of

Shown = tuple[float, Sequence[Picture]]
"""The noise level shown first, and the pictures of a model."""


def write_report(folder: Path, content: dict[str, Any], shown: Sequence[Shown], margins: Sequence[str | None]) -> None:
    """`report.html`, and beside it the curves and, of a single model, its slices as PNG and SVG.

    content: of `report.results`; shown, margins: per model the noise level and the pictures of its slices, and its
    margins histogram (base64 PNG), where it has one."""
    models = content["models"]
    smallest = smallest_curves(models)
    page = new_environment().get_template("report.html.j2")
    with replacing(folder / "report.html") as path:
        html = page.render(_filled_in(content, shown, margins, smallest))
        path.write_text(in_words_of(models, html), encoding="utf-8")
    save(noise_curves(models), folder, "robustness")
    if smallest:
        save(smallest, folder, "smallest")
    corruptions = corruption_curves(models)
    if corruptions:
        save(corruptions, folder, "corruptions")
    if len(models) == 1:
        for picture in shown[0][1]:
            save(picture.figure, folder, f"{models[0].get('sample', 'slice')}_{picture.name.lower()}")


def _filled_in(
    content: dict[str, Any], shown: Sequence[Shown], margins: Sequence[str | None], smallest: Any
) -> dict[str, Any]:
    """What the template is given. smallest: the figure of the smallest noises, None without."""
    models, comparisons = content["models"], content["comparisons"]
    levels = [level["noise"] for level in models[0]["levels"]]
    curves, curve_key = noise_charts(models)
    filled = {
        "content": content,
        "answer": answer(content),
        "models": list(zip(names(models), models, shown, margins, strict=True)),
        "first": models[0],
        "figures": _figures(models),
        "level_heads": [_head(level, models[0]["unit"]) for level in models[0]["levels"]],
        "level_told": [level_told(models[0], level) for level in models[0]["levels"]],
        "case_heads": _case_heads(models),
        "sample_title": sample_title(models[0]) if "strong_sample" in models[0] else "",
        "certified_title": certified_title(models[0]) if "certified" in models[0] else "",
        "certified_heads": ["model", "radius 0", *_radii(models)],
        "smallest": png(smallest) if smallest else "",
        "smallest_title": SMALLEST_TITLE,
        "quantile_heads": ["", *smallest_heads(models)] if smallest else [],
        "quantile_rows": _quantile_rows(models) if smallest else [],
        "smallest_heads": ["case", *(f"{name}: {what}" for name in names(models) for what in ("weakest", "median"))],
        "smallest_rows": _smallest_rows(models) if smallest else [],
        "fold_heads": ["fold", "cases", *(_head(level, models[0]["unit"]) for level in models[0]["levels"])],
        "curves": curves,
        "curve_key": curve_key,
        "structures": structure_chart(models),
        "corruptions": corruption_charts(models),
        "comparisons": [row | {"pair": _pair(row, models)} for row in comparisons],
        "tested": any(row["p"] is not None for row in comparisons),
        "listed": any(row.get("differences") is not None for row in comparisons),
        "pictured": any(pictures for _, pictures in shown),
        "forwards_told": forwards_told,
        "start": levels.index(shown[0][0]),
        "by_severity": by_severity,
        "audited": any(model.get("audit") for model in models),
        "mean": MEAN,
        "verdict": worst_verdict,
        "magnification": MAGNIFICATION,
    }
    return filled | {"sections": _sections(filled)}


def _figures(models: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """ADI before TVDI."""
    tvdi, adi, *others = figures_of(models)
    return [adi, tvdi, *others]


def _sections(filled: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchor and heading of each section that the page has, in its order."""
    sections = [
        ("tested", "What was tested", True),
        ("curves", "Dice against noise", True),
        ("smallest", "At which noise does each slice fail?", filled["smallest"]),
        ("certified", "What is certain?", filled["certified_title"]),
        ("compared", "Do the models differ?", filled["comparisons"]),
        ("slices", "What it looks like", filled["pictured"]),
        ("corruptions", "Noise that scanners make", filled["corruptions"][0]),
        ("checks", "Can the attack be trusted?", filled["audited"]),
        ("margins", "Margins", any(margins for *_, margins in filled["models"])),
        ("folds", "Fold by fold", "folds" in filled["first"]),
        ("cases", "Case by case", True),
        ("repeat", "How to repeat it", True),
    ]
    return [(anchor, heading) for anchor, heading, there in sections if there]


def _head(level: dict[str, Any], unit: str | None) -> Markup:
    """Of a column: the noise level, its size per pixel below it."""
    units = "" if level["rms_in_units"] is None else Markup("<br>{:.3g} {}").format(level["rms_in_units"], unit)
    return Markup("{:g}<small>{:.2g} SD{}</small>").format(level["noise"], level["rms_per_pixel"], units)


def _case_heads(models: Sequence[dict[str, Any]]) -> list[str]:
    named = zip(names(models), models, strict=True)
    head = Markup("{:g}<small>{}</small>")
    return ["case", *(head.format(level["noise"], name) for name, model in named for level in model["levels"])]


def _radii(models: Sequence[dict[str, Any]]) -> list[str]:
    levels = models[0].get("certified", {}).get("levels", [])
    return [f"radius {level['radius']:.2g}" for level in levels]


def _quantile_rows(models: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """As in the table that is printed; short rows are filled up."""
    length = len(smallest_heads(models))
    return [
        (f"{label}: {name}" if name else label, [*cells, *[""] * (length - len(cells))])
        for label, model in zip(names(models), models, strict=True)
        for name, cells in smallest_rows(model)
    ]


def _smallest_rows(models: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Of each case the smallest noise of its weakest slice and the median of its slices, model by model."""
    rows = []
    for case in models[0]["smallest"]["profile"]:
        cells: list[str] = []
        for model in models:
            found = model["smallest"]
            values = found["profile"].get(case, {}).get("noise", [])
            numbers = sorted(math.inf if value is None else value for value in values)
            shown = (numbers[0], numbers[(len(numbers) - 1) // 2]) if numbers else (math.nan, math.nan)
            cells += [f"above {found['largest']:g}" if math.isinf(value) else f"{value:.2f}" for value in shown]
        rows.append((case, cells))
    return rows


def _pair(row: dict[str, Any], models: Sequence[dict[str, Any]]) -> str:
    labels = names(models)
    return f"{labels[row['first']]} - {labels[row['second']]}"
