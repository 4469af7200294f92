"""What an evaluation of a classifier found: table, `results.json`, `images.csv`, curves, and the images that flip
first."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_ima.classification.data import Images
from nnunet_ima.classification.robustness import Answers
from nnunet_ima.files import replacing
from nnunet_ima.plots import new_figure, save

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


def _cell(values: Sequence[float]) -> str:
    text = f"{values[0]:.2f}" + (f" ({values[1]:.1f}-{values[2]:.1f})" if len(values) > 1 else "")
    return f"{text:>{CELL}}"


def write(folder: Path, content: dict[str, Any]) -> None:
    with replacing(folder / "results.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def write_images(
    folder: Path, images: Images, classes: Sequence[str], found: dict[str, dict[float, Answers]], distance: Tensor
) -> None:
    """`images.csv`: one line per image, attack and level: whether it was right, and the probability of its class."""
    with replacing(folder / "images.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "attack", "noise", "right", "probability", "boundary_distance"])
        for attack, by_level in found.items():
            for level, answers in by_level.items():
                for row, (name, label) in enumerate(zip(images.names, images.y.tolist(), strict=True)):
                    probability = answers.probabilities[row, label]
                    writer.writerow([name, classes[label], attack, f"{level:g}", int(answers.right[row]),
                                     f"{probability:.6g}", f"{float(distance[row]):.6g}"])  # fmt: skip


def draw(folder: Path, rows: dict[str, list[dict[str, Any]]], levels: Sequence[float]) -> None:
    """`robustness.png` and `.svg`: accuracy against noise, a line per attack, a band for PGD's interval."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for attack, row in rows.items():
        axes.plot(levels, [found["accuracy"][0] for found in row], "o-", label=attack)
    if "pgd" in rows:
        low, high = zip(*(found["accuracy"][1:] for found in rows["pgd"]), strict=True)
        axes.fill_between(levels, low, high, alpha=0.15)
    axes.set(xlabel="noise level (norm of the noise, images in 0 to 1)", title="Accuracy (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, folder, "robustness")


def draw_first_to_flip(folder: Path, images: Images, classes: Sequence[str], distance: Tensor, points: Tensor) -> None:
    """`flips.png` and `.svg`: the images that the least noise turns, on the boundary, and ten times the noise (the
    paper's Figs. 1 and 15). Nothing where no image is right and crosses."""
    crossing = [row for row in distance.argsort().tolist() if 0 < float(distance[row]) < float("inf")][:SHOWN]
    if not crossing:
        return
    figure = new_figure(2.2 * len(crossing), 6.6)
    panels = figure.subplots(3, len(crossing), squeeze=False)
    for column, row in enumerate(crossing):
        clean, noisy = images.x[row, 0], points[row, 0]
        title = f"{classes[int(images.y[row])]}\nnoise level {float(distance[row]):.2g}"
        for axes, image, window in ((panels[0, column], clean, (0, 1)), (panels[1, column], noisy, (0, 1)),
                                    (panels[2, column], 10 * (noisy - clean), (-1, 1))):  # fmt: skip
            axes.imshow(image.numpy(), cmap="gray", vmin=window[0], vmax=window[1])
            axes.axis("off")
        panels[0, column].set_title(title, fontsize=8)
    panels[1, 0].set_title("on the boundary", fontsize=8)
    panels[2, 0].set_title("difference x 10", fontsize=8)
    save(figure, folder, "flips")
