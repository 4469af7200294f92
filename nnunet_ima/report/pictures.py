"""Slices to look at: worst, median and best under attack, clean and noisy, with the contours of what is found."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.evaluation.under_noise import outcomes, stacked
from nnunet_ima.metrics.indices import mean_dice, slice_dice
from nnunet_ima.plots import new_figure
from nnunet_ima.report.images import outline, picture
from nnunet_ima.segmentation.cases.slices import Slice

MAGNIFICATION = 10
COLORS = {"reference": "#1b7837", "clean": "#2166ac", "noisy": "#d6604d"}
"""Apart for colour-blind eyes, and in print."""


@dataclass(frozen=True)
class Frame:
    """The slice at one noise level: Dice; image and difference (`MAGNIFICATION` times) as data URIs; the outline of
    what is found."""

    level: float
    dice: float
    image: str
    difference: str
    found: str


@dataclass(frozen=True)
class Picture:
    """name: Worst, Median or Best; title: which slice this is; figure: matplotlib's, at the noise level shown;
    shape: height and width; reference: outline; frames: of all noise levels, without noise first."""

    name: str
    title: str
    figure: Any
    shape: tuple[int, int]
    reference: str
    frames: list[Frame]


def pictures(subject: Subject, found: Sweep) -> tuple[float, list[Picture]]:
    """The noise level shown first, and the worst, the median and the best slice under the main attack there.

    The level is the one nearest to half of the Dice without noise. The sweep keeps no images, so the attack is made
    anew: three slices at each level, as many forwards as 3 x levels x steps. The Dice shown is that of the pictures.
    """
    main = next(one for one in found.found.values() if one.noise.family == "attack")
    dice = np.stack([slice_dice(counts) for counts in main.counts])
    row = shown_row(main, dice)
    rows = _worst_median_best(dice[row])
    by_name = {(place.case, place.number): place for place in subject.slices.places}
    shown = subject.slices.read([by_name[found.slices[number]] for number in rows])
    named = zip(("Worst", "Median", "Best"), shown, strict=False)
    return main.levels[row], [
        picture for name, item in named for picture in _pictures(_attacked(subject, main, item), main, row, item, name)
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


@dataclass(frozen=True)
class _Attacked:
    """A slice or volume at each noise level: its first channel (H, W) or (Z, H, W), what is found and the reference
    (classes, ...), Dice."""

    images: list[NDArray[np.float32]]
    found: list[NDArray[np.bool_]]
    dice: list[float]
    reference: NDArray[np.bool_]

    def plane(self, axis: int, number: int) -> "_Attacked":
        """One plane of a volume."""
        return _Attacked(
            [np.take(image, number, axis) for image in self.images],
            [np.take(mask, number, axis + 1) for mask in self.found],
            self.dice,
            np.take(self.reference, number, axis + 1),
        )


def _attacked(subject: Subject, main: Found, item: Slice) -> _Attacked:
    x, y, _ = stacked(subject.target, [item])
    objective = subject.target.objective()
    reference = objective.reference(y)[0][0].cpu().numpy()
    images, found, dice = [], [], []
    for noisy in _noisy(subject, main, item, x, y):
        with torch.no_grad():
            output = subject.target.network(noisy)
        images.append(noisy[0, 0].cpu().numpy())
        found.append(objective.prediction(output)[0].cpu().numpy())
        dice.append(float(slice_dice(objective.counts(output, y).cpu().numpy())[0]))
    return _Attacked(images, found, dice, reference)


def _pictures(attacked: _Attacked, main: Found, row: int, item: Slice, name: str) -> list[Picture]:
    """Of a slice one, of a volume one per axis: the plane that shows most of the reference."""
    if attacked.reference.ndim == 3:
        return [_picture(attacked, main, row, name, f"{name}: {item.case}, slice {item.number}")]
    result = []
    for axis in range(3):
        number = fullest_plane(attacked.reference, axis)
        place = "" if item.unit == "volume" else f", {item.unit} {item.number}"
        whole = "case" if item.unit == "volume" else item.unit
        title = f"{name}: {item.case}{place}, plane {number} of axis {axis} (Dice of the whole {whole})"
        result.append(_picture(attacked.plane(axis, number), main, row, f"{name}_{axis}", title))
    return result


def fullest_plane(foreground: NDArray[np.bool_], axis: int) -> int:
    """The number of the plane across an axis (0 to 2) that shows most of it; foreground: (Z, H, W) or (classes, Z, H,
    W)."""
    kept = foreground.ndim - 3 + axis
    return int(foreground.sum(tuple(other for other in range(foreground.ndim) if other != kept)).argmax())


def _picture(shown: _Attacked, main: Found, row: int, name: str, title: str) -> Picture:
    figure = _drawn((shown.images[0], shown.images[row]), shown.reference, (shown.found[0], shown.found[row]))
    frames = _frames(main.levels, shown.images, shown.found, shown.dice)
    return Picture(name, title, figure, shown.reference.shape[1:], outline(shown.reference), frames)


def _noisy(subject: Subject, main: Found, item: Slice, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """The slice (1, C, H, W) at each level."""
    if main.noise.nested:
        upwards = outcomes(subject.target, [item], main.noise, main.levels, subject.settings.seed)
        yield from (x + found.delta.to(x) for _, found in upwards)
        return
    for level in main.levels:
        yield main.noise(subject.target, x, y, level, subject.seeds([item])) if level else x


def _frames(
    levels: Sequence[float],
    images: Sequence[NDArray[np.float32]],
    found: Sequence[NDArray[np.bool_]],
    dice: Sequence[float],
) -> list[Frame]:
    """The first image is the clean one."""
    low, high, limit = _window(images[0])
    return [
        Frame(
            level,
            value,
            picture(image, low, high),
            picture(MAGNIFICATION * (image - images[0]), -limit, limit),
            outline(mask),
        )
        for level, image, mask, value in zip(levels, images, found, dice, strict=True)
    ]


def _window(clean: NDArray[np.float32]) -> tuple[float, float, float]:
    """The lowest and the highest grey value shown, and the largest difference."""
    low, high = (float(value) for value in np.percentile(clean, [0.5, 99.5]))
    return low, high, (high - low) / 2


def _drawn(
    images: Sequence[NDArray[np.float32]], reference: NDArray[np.bool_], found: Sequence[NDArray[np.bool_]]
) -> Any:
    """Clean and noisy slice, 10 x their difference, and the contours of reference, clean and noisy result."""
    clean, noisy = images
    low, high, limit = _window(clean)
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
