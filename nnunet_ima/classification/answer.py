"""What an evaluation of classifiers found, in at most three plain sentences."""

import math
from collections.abc import Sequence
from typing import Any

from nnunet_ima.report.answer import first_below

HALF = 50.0
SENSITIVITY = "sensitivity "


def answer(content: dict[str, Any], strongest: Sequence[str]) -> list[str]:
    """content: as written to `results.json`; strongest: of each model the attack that leaves least accuracy."""
    models, levels = content["models"], content["noise"]
    rows = [model["attacks"][attack] for model, attack in zip(models, strongest, strict=True)]
    parts = [
        _breaks(model, row, levels, content["norm"], len(models) > 1) for model, row in zip(models, rows, strict=True)
    ]
    return [f"Under {_all_of(strongest)}, {'; '.join(parts)}.", _left(models, rows, levels), _trust(models)]


def noise_told(model: dict[str, Any], level: float, norm: str) -> str:
    """A noise level with its size per pixel, where the number of pixels is known."""
    if norm != "l2" or not model.get("pixels"):
        return f"noise level {level:.2g}"
    share = 100 * level / math.sqrt(model["pixels"])
    return f"noise level {level:.2g} (RMS per pixel: {share:.2g} % of the range of intensities)"


def _all_of(attacks: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(attacks))


def _breaks(
    model: dict[str, Any], row: Sequence[dict[str, Any]], levels: Sequence[float], norm: str, named: bool
) -> str:
    """The class of which half of the images are missed first."""
    found = []
    for key in (key for key in row[0] if key.startswith(SENSITIVITY)):
        level = first_below(levels, [figures[key][0] for figures in row], HALF)
        if level is not None:
            found.append((level, row[-1][key][0], key.removeprefix(SENSITIVITY).split(" = ")[0]))
    whose = f" of {model['name']}" if named else ""
    if not found:
        return f"no class{whose} loses half of its images up to {noise_told(model, levels[-1], norm)}"
    level, _, name = min(found)
    return f"{name}{whose} breaks first: half of its images are missed at {noise_told(model, level, norm)}"


def _left(models: Sequence[dict[str, Any]], rows: Sequence[Any], levels: Sequence[float]) -> str:
    """Accuracy where about half of it is lost."""
    means = [sum(row[number]["accuracy"][0] for row in rows) / len(rows) for number in range(len(levels))]
    shown = min(range(min(1, len(levels) - 1), len(levels)), key=lambda number: abs(means[number] - means[0] / 2))
    parts = [
        f"{_percent(row[shown]['accuracy'])} of {model['name']}, without noise {row[0]['accuracy'][0]:.0f} %"
        for model, row in zip(models, rows, strict=True)
    ]
    return f"At noise level {levels[shown]:g} this accuracy is left: {'; '.join(parts)}."


def _percent(figure: Sequence[float | None]) -> str:
    value, low, high = figure
    return f"{value:.0f} %" + ("" if low is None else f" (95 % interval {low:.0f} to {high:.0f})")


def _trust(models: Sequence[dict[str, Any]]) -> str:
    if "strong" in models[0]["attacks"]:
        return "The strong attack is among those used, so that a weak attack is less likely to flatter the model."
    return "These attacks alone tend to flatter a model: for a firmer answer ask for --attack strong."
