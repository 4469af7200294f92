"""What an evaluation of classifiers found: table, `results.json`, `images.csv`, `report.html`, curves, and the images
that flip first."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_ima.classification.answer import answer
from nnunet_ima.classification.data import Images
from nnunet_ima.classification.robustness import Answers
from nnunet_ima.files import replacing
from nnunet_ima.plots import new_figure, png, save
from nnunet_ima.report import charts
from nnunet_ima.report.pages import new_environment

CELL = 20
SHOWN = 6


def table(rows: dict[str, list[dict[str, Any]]], levels: Sequence[float]) -> str:
    """Per figure and attack the values at each noise level, with intervals."""
    names = list(next(iter(rows.values()))[0])
    width = max(len(name) for name in (*rows, *names, "noise")) + 3
    lines = []
    for name in names:
        lines += ["", f"{name} (%)", "noise".ljust(width) + "".join(f"{level:>{CELL}g}" for level in levels)]
        lines += [attack.ljust(width) + "".join(_cell(found[name]) for found in row) for attack, row in rows.items()]
    return "\n".join(lines[1:])


def summary(model: dict[str, Any], levels: Sequence[float]) -> str:
    """What the terminal says of one model."""
    lines = [f"{model['name']} ({model['method']})", table(model["attacks"], levels), ""]
    for amplitude, flipped in model["white_noise"].items():
        lines.append(f"White noise of +-{amplitude} flips {flipped:.2f} % of the images that are right without it")
    if "suggested_noise" in model:
        lines.append(f"Suggested fixed noise level for --method adv: {model['suggested_noise']:.2g}")
    return "\n".join([*lines, ""])


def _cell(values: Sequence[float | None]) -> str:
    text = f"{values[0]:.2f}" + (f" ({values[1]:.1f}-{values[2]:.1f})" if values[1] is not None else "")
    return f"{text:>{CELL}}"


def write_images(
    folder: Path, images: Images, classes: Sequence[str], found: dict[str, dict[float, Answers]], distance: Tensor
) -> None:
    """`images.csv`: one line per image (and its patient), attack and level: whether it was right, and the probability
    of its class."""
    with replacing(folder / "images.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "group", "label", "attack", "noise", "right", "probability", "boundary_distance"])
        for attack, by_level in found.items():
            for level, answers in by_level.items():
                for row, (name, label) in enumerate(zip(images.names, images.y.tolist(), strict=True)):
                    probability = answers.probabilities[row, label]
                    writer.writerow(
                        [
                            name,
                            images.groups[row],
                            classes[label],
                            attack,
                            f"{level:g}",
                            int(answers.right[row]),
                            f"{probability:.6g}",
                            f"{float(distance[row]):.6g}",
                        ]
                    )


def curves(models: Sequence[dict[str, Any]], levels: Sequence[float]) -> Any:
    """Accuracy against noise: of one model a line per attack, of several each one's under the strongest of its attacks,
    with a band for its interval."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for model in models:
        strongest = worst_attack(model)
        for attack, row in model["attacks"].items():
            if len(models) > 1 and attack != strongest:
                continue
            label = attack if len(models) == 1 else f"{model['name']}: {attack}"
            axes.plot(levels, [found["accuracy"][0] for found in row], "o-", label=label)
            if attack == strongest:
                # A NaN, where there is no interval, draws no band.
                low, high = np.array([found["accuracy"][1:] for found in row], dtype=float).T
                axes.fill_between(levels, low, high, alpha=0.15, color=axes.lines[-1].get_color())
    axes.set(xlabel="noise level (norm of the noise, images in 0 to 1)", title="Accuracy (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def chart(models: Sequence[dict[str, Any]], levels: Sequence[float]) -> tuple[charts.Chart, list[charts.Series]]:
    """The same as `curves` for the report, with its legend."""
    series = []
    for color, model in enumerate(models):
        strongest = worst_attack(model)
        for row, (attack, found) in enumerate(model["attacks"].items()):
            if len(models) > 1 and attack != strongest:
                continue
            values = [figures["accuracy"][0] for figures in found]
            if attack == strongest:
                band = [figures["accuracy"][1:] for figures in found]
                series.append(charts.Series(f"{model['name']}: {attack}", values, color, band=band))
            else:
                dash = charts.DOTS if attack == "random" else charts.DASHES[row % len(charts.DASHES)]
                series.append(charts.Series(f"{model['name']}: {_called(attack)}", values, color, dash))
    heads = [f"noise level {level:g}" for level in levels]
    return charts.chart("Accuracy (%)", "noise level", levels, heads, series), series


def _called(attack: str) -> str:
    return "random noise" if attack == "random" else attack


def worst_attack(model: dict[str, Any]) -> str:
    """The attack that leaves the least accuracy, summed over the levels."""
    return str(min(model["attacks"], key=lambda name: sum(found["accuracy"][0] for found in model["attacks"][name])))


def first_to_flip(images: Images, classes: Sequence[str], distance: Tensor, points: Tensor) -> Any:
    """The images that the least noise turns, on the boundary, and ten times the noise (the paper's Figs. 1 and 15).
    None where no image is right and crosses."""
    crossing = [row for row in distance.argsort().tolist() if 0 < float(distance[row]) < float("inf")][:SHOWN]
    if not crossing:
        return None
    figure = new_figure(2.2 * len(crossing), 6.6)
    panels = figure.subplots(3, len(crossing), squeeze=False)
    for column, row in enumerate(crossing):
        clean, noisy = images.x[row, 0], points[row, 0]
        title = f"{classes[int(images.y[row])]}\nnoise level {float(distance[row]):.2g}"
        for axes, image, window in (
            (panels[0, column], clean, (0, 1)),
            (panels[1, column], noisy, (0, 1)),
            (panels[2, column], 10 * (noisy - clean), (-1, 1)),
        ):
            axes.imshow(image.numpy(), cmap="gray", vmin=window[0], vmax=window[1])
            axes.axis("off")
        panels[0, column].set_title(title, fontsize=8)
    panels[1, 0].set_title("on the boundary", fontsize=8)
    panels[2, 0].set_title("difference x 10", fontsize=8)
    return figure


def write(folder: Path, content: dict[str, Any], flips: Sequence[Any], margins: Sequence[str | None]) -> None:
    """`results.json`, `report.html`, `robustness.png` and `.svg`; of a single model also `flips.png` and `.svg`.

    content: "models" (name, run, method, classes, images, attacks, white_noise, ...), "noise" and the settings; flips,
    margins: of each model the figure of `first_to_flip` and its margins histogram (base64 PNG), where there are any.
    """
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")
    figure = curves(content["models"], content["noise"])
    save(figure, folder, "robustness")
    if len(flips) == 1 and flips[0] is not None:
        save(flips[0], folder, "flips")
    models = [
        {**model, "strongest": worst_attack(model), "flips": png(flip) if flip is not None else None, "margins": margin}
        for model, flip, margin in zip(content["models"], flips, margins, strict=True)
    ]
    drawn = chart(content["models"], content["noise"])
    page = new_environment().get_template("classifier.html.j2")
    told = answer(content, [model["strongest"] for model in models])
    filled = {"content": content, "models": models, "chart": drawn[0], "chart_key": drawn[1], "answer": told}
    with replacing(folder / "report.html") as path:
        path.write_text(page.render(**filled, sections=_sections(models)), encoding="utf-8")


def _sections(models: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Anchor and heading of each section that the page has, in its order."""
    sections = [
        ("tested", "What was tested", True),
        ("curves", "Accuracy against noise", True),
        ("flips", "The images that flip first", any(model["flips"] for model in models)),
        ("margins", "Margins", any(model["margins"] for model in models)),
        ("repeat", "How to repeat it", True),
    ]
    return [(anchor, heading) for anchor, heading, there in sections if there]
