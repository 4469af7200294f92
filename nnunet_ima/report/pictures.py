"""Slices to look at: worst, median and best under attack, clean and noisy, with the contours of what is found."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.noises import Noise
from nnunet_ima.evaluation.sweep import Found, Sweep, stacked
from nnunet_ima.metrics.indices import mean_dice, slice_dice
from nnunet_ima.plots import new_figure
from nnunet_ima.segmentation.cases.slices import Slice

MAGNIFICATION = 10
COLORS = {"reference": "#1b7837", "clean": "#2166ac", "noisy": "#d6604d"}
"""Apart for colour-blind eyes, and in print."""


@dataclass(frozen=True)
class Picture:
    """name: Worst, Median or Best; title: which slice this is; figure: matplotlib's."""

    name: str
    title: str
    figure: Any


def pictures(subject: Subject, found: Sweep) -> tuple[float, list[Picture]]:
    """The noise level shown, and the worst, the median and the best slice under the main attack there.

    The level is the one nearest to half of the Dice without noise. The attack is made anew on these slices; the Dice
    in their titles is that of the pictures.
    """
    main = next(one for one in found.found.values() if one.noise.family == "attack")
    dice = np.stack([slice_dice(counts) for counts in main.counts])
    row = shown_row(main, dice)
    rows = _worst_median_best(dice[row])
    by_name = {(place.case, place.number): place for place in subject.slices.places}
    shown = subject.slices.read([by_name[found.slices[number]] for number in rows])
    return main.levels[row], [
        _picture(subject, main.noise, main.levels[row], item, name)
        for name, item in zip(("Worst", "Median", "Best"), shown, strict=False)
    ]


def shown_row(main: Found, dice: NDArray[np.float64]) -> int:
    """The row of the level nearest to half of the mean Dice without noise, 0 only if it is alone."""
    means = mean_dice(dice, axis=1)
    return min(range(min(1, len(means) - 1), len(means)), key=lambda row: abs(means[row] - means[0] / 2))


def _worst_median_best(dice: NDArray[np.float64]) -> list[int]:
    """Rows; none where no slice has a Dice."""
    rows = np.flatnonzero(np.isfinite(dice))
    if len(rows) == 0:
        return []
    order = rows[np.argsort(dice[rows], kind="stable")]
    return [int(order[0]), int(order[len(order) // 2]), int(order[-1])]


def _picture(subject: Subject, noise: Noise, level: float, item: Slice, name: str) -> Picture:
    x, y, _ = stacked(subject.target, [item])
    noisy = noise(subject.target, x, y, level, subject.seeds([item]))
    objective = subject.target.objective()
    with torch.no_grad():
        outputs = [subject.target.network(image) for image in (x, noisy)]
    reference = objective.reference(y)[0][0].cpu().numpy()
    found = [objective.prediction(output)[0].cpu().numpy() for output in outputs]
    dice = [float(slice_dice(objective.counts(output, y).cpu().numpy())[0]) for output in outputs]
    title = f"{name}: {item.case}, slice {item.number}. Dice {dice[0]:.2f} clean, {dice[1]:.2f} under attack."
    images = x[0, 0].cpu().numpy(), noisy[0, 0].cpu().numpy()
    return Picture(name, title, _drawn(images, reference, found))


def _drawn(
    images: Sequence[NDArray[np.float32]], reference: NDArray[np.bool_], found: Sequence[NDArray[np.bool_]]
) -> Any:
    """Clean and noisy slice, 10 x their difference, and the contours of reference, clean and noisy result."""
    clean, noisy = images
    low, high = (float(value) for value in np.percentile(clean, [0.5, 99.5]))
    limit = (high - low) / 2
    height, width = clean.shape
    figure = new_figure(9.6, 2.4 * height / width + 0.3)
    panels = figure.subplots(1, 4)
    for axes, title, image in zip(
        panels,
        ("clean", "noisy", f"difference x {MAGNIFICATION}", "contours"),
        (clean, noisy, MAGNIFICATION * (noisy - clean), clean),
        strict=True,
    ):
        window = (-limit, limit) if title.startswith("difference") else (low, high)
        axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1])
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    for (name, color), mask in zip(COLORS.items(), (reference, *found), strict=True):
        _contours(panels[3], mask, color, "dashed" if name == "reference" else "solid")
    return figure


def _contours(axes: Any, masks: NDArray[np.bool_], color: str, style: str) -> None:
    for mask in masks:
        if mask.any() and not mask.all():
            axes.contour(mask, [0.5], colors=color, linewidths=1.2, linestyles=style)


def margins_picture(fold: Path) -> str | None:
    """`margins.png` of a trained fold as base64, None where the model has no margins."""
    file = fold / "margins.png"
    return base64.b64encode(file.read_bytes()).decode() if file.is_file() else None
