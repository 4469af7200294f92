"""Slices, or a patch in three planes, at several noise levels, to choose the largest one by looking."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.report.pictures import fullest_plane
from nnunet_ima.segmentation.cases.intensities import original_units, raw_files, root_mean_square, unit_name
from nnunet_ima.segmentation.cases.patches import Patches
from nnunet_ima.segmentation.cases.slices import Slice, Slices
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective

FORMATS = (".png", ".pdf", ".svg")
STEPS = 40
SEED = 0


@dataclass(frozen=True)
class Noisy:
    """A slice (images (C, H, W)), or a patch of a volume ((C, Z, H, W)), under one kind of noise, per level; masks (the
    foreground a model finds, without the channel axis) and Dice if there is a model."""

    kind: str
    images: list[Tensor]
    masks: list[NDArray[np.bool_]]
    dice: list[float]

    def plane(self, axis: int, number: int) -> "Noisy":
        """One plane of a patch; its Dice is that of the whole patch."""
        images = [image.select(axis + 1, number) for image in self.images]
        return replace(self, images=images, masks=[np.take(mask, number, axis) for mask in self.masks])


@dataclass(frozen=True)
class Shown:
    """A slice or patch, clean and noisy. units: original intensity units per SD of its first channel, NaN if unknown;
    title: of the part of it that is shown."""

    item: Slice
    title: str
    units: float
    clean: Noisy
    noisy: list[Noisy]


def preview(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    preprocessed: Path,
    levels: Sequence[float],
    path: Path,
    predictor: Any = None,
) -> None:
    """Draw slices of different cases, clean and at each of `levels`, to `path` (PNG, PDF or SVG). In a 3D configuration
    a patch of one case, to which the levels belong, in three planes.

    predictor: of a trained model; then adversarial noise beside white noise of the same norm, its segmentation and
    Dice. UserError for another file format, or where the preprocessed data is missing.
    """
    check_format(path)
    manager = PlansManager(plans)
    labels = SimpleNamespace(
        label_manager=manager.get_label_manager(dataset_json),
        configuration_manager=manager.get_configuration(configuration),
    )
    folder = preprocessed / labels.configuration_manager.data_identifier
    shown = []
    for item in _samples(labels, folder, 3 if predictor is None else 2):
        files = raw_files(manager.dataset_name, dataset_json, item.case)
        units = original_units(manager, labels.configuration_manager, *files)[0]
        whole = _shown(item, units, levels, predictor)
        shown += [whole] if item.unit == "slice" else _planes(whole, _foreground(item, labels.label_manager))
    _draw(shown, levels, unit_name(labels.configuration_manager), path)


def check_format(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--preview {path}: the file must end in one of {', '.join(FORMATS)}.")


def _samples(labels: Any, folder: Path, count: int) -> list[Slice]:
    """From cases spread over the data set, the slice with the most foreground of each; in 3D such a patch of one."""
    kind = Slices
    if len(labels.configuration_manager.patch_size) == 3:
        kind, count = Patches, 1
    cases = sorted({file.name.split(".")[0] for file in folder.glob("*.pkl")}) if folder.is_dir() else []
    if not cases:
        raise UserError(f"{folder} holds no preprocessed cases: run nnUNetv2_plan_and_preprocess first.")
    found = []
    for number in np.linspace(0, len(cases) - 1, min(count, len(cases))).astype(int):
        dataset = infer_dataset_class(str(folder))(str(folder), [cases[number]])
        samples = kind(labels, dataset, [cases[number]], "foreground")
        if len(samples):
            read = samples.read(samples.places)
            found.append(max(read, key=lambda item: int(_foreground(item, labels.label_manager).sum())))
    if not found:
        raise UserError(f"{folder}: none of the cases looked at has foreground; check the labels.")
    return found


def _planes(shown: Shown, foreground: NDArray[np.bool_]) -> list[Shown]:
    """Of a patch the plane across each axis that shows the most foreground; foreground: (Z, H, W)."""
    result = []
    for axis in range(3):
        number = fullest_plane(foreground, axis)
        clean, *noisy = (one.plane(axis, number) for one in (shown.clean, *shown.noisy))
        title = f"{shown.item.case}, patch {shown.item.number}\nplane {number} of axis {axis}"
        result.append(replace(shown, title=title, clean=clean, noisy=noisy))
    return result


def _foreground(item: Slice, label_manager: Any) -> NDArray[np.bool_]:
    if label_manager.has_regions:
        inside: NDArray[np.bool_] = item.reference[: len(label_manager.foreground_regions)].bool().any(0).numpy()
        return inside
    return np.isin(item.reference[0].numpy(), label_manager.foreground_labels)


def _shown(item: Slice, units: float, levels: Sequence[float], predictor: Any) -> Shown:
    title, clean = f"{item.case}, {item.unit} {item.number}", item.image[None]
    direction = ball.random_direction(clean, torch.Generator().manual_seed(SEED))
    white = [clean + level * direction for level in levels]
    if predictor is None:
        alone = Noisy("clean", [clean[0]], [], [])
        return Shown(item, title, units, alone, [Noisy("white noise", _first(white), [], [])])
    objective = SegmentationObjective.of(predictor.label_manager)
    network = TiledNetwork(predictor.network, predictor.configuration_manager.patch_size)
    device = next(network.parameters()).device
    x, y = clean.to(device), item.reference[None].to(device)

    def segmented(kind: str, images: Sequence[Tensor]) -> Noisy:
        with torch.no_grad():
            logits = [network(image.to(device)) for image in images]
        masks = [objective.prediction(output)[0].any(0).cpu().numpy() for output in logits]
        return Noisy(kind, _first(images), masks, [objective.slice_dice(output, y).item() for output in logits])

    generator = torch.Generator().manual_seed(SEED)
    found = [pgd(network, x, y, level, objective=objective, steps=STEPS, generator=generator) for level in levels]
    return Shown(
        item,
        title,
        units,
        segmented("clean", [clean]),
        [segmented("adversarial noise", found), segmented("white noise\nof the same norm", white)],
    )


def _first(images: Sequence[Tensor]) -> list[Tensor]:
    return [image[0].cpu() for image in images]


def _draw(shown: Sequence[Shown], levels: Sequence[float], unit: str, path: Path) -> None:
    """Per slice a row of noisy images and one of differences to the clean one; a row for each further kind of noise."""
    import matplotlib.style
    from matplotlib.figure import Figure

    per_slice = 1 + len(shown[0].noisy)
    with matplotlib.style.context("default"):
        # The planes of a volume differ in shape.
        shapes = [one.clean.images[0].shape[1:] for one in shown for _ in range(per_slice)]
        heights = [2.2 * height / width + 0.35 for height, width in shapes]
        figure = Figure(figsize=(2.2 * (len(levels) + 1), sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), len(levels) + 1, squeeze=False, height_ratios=heights)
        for axes in panels.flat:
            axes.axis("off")
        for number, slice_ in enumerate(shown):
            _draw_slice(slice_, levels, unit, panels[number * per_slice : (number + 1) * per_slice])
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)


def _draw_slice(shown: Shown, levels: Sequence[float], unit: str, panels: Any) -> None:
    clean = shown.clean.images[0][0].numpy()
    low, high = (float(value) for value in np.percentile(clean, [0.5, 99.5]))
    _image(panels[0, 0], shown.clean, 0, f"{shown.title}\nclean", (low, high))
    for row, noisy in zip((0, *range(2, len(panels))), shown.noisy, strict=True):
        title = panels[max(row, 1), 0]
        title.text(0.5, 0.5, noisy.kind, ha="center", va="center", fontsize=10, transform=title.transAxes)
        for column, level in enumerate(levels):
            rms = root_mean_square(level, shown.item.shape)
            text = f"noise level {level:g}\n{rms:.3f} SD{_in_units(rms * shown.units, unit)}"
            _image(panels[row, column + 1], noisy, column, text, (low, high))
            if row == 0:
                factor = _magnification(rms, high - low)
                limit = (high - low) / 2 / factor
                axes = panels[1, column + 1]
                axes.imshow(noisy.images[column][0].numpy() - clean, cmap="gray", vmin=-limit, vmax=limit)
                axes.set_title(f"difference x {factor:g}", fontsize=8)


def _image(axes: Any, noisy: Noisy, column: int, title: str, window: tuple[float, float]) -> None:
    """The first channel, with the outline of what the model finds (orange) and its Dice."""
    axes.imshow(noisy.images[column][0].numpy(), cmap="gray", vmin=window[0], vmax=window[1])
    if noisy.masks:
        title += f", Dice {noisy.dice[column]:.2f}"
        mask = noisy.masks[column]
        if mask.any() and not mask.all():
            axes.contour(mask, [0.5], colors="tab:orange", linewidths=1.2)
    axes.set_title(title, fontsize=8)


def _in_units(value: float, unit: str) -> str:
    if math.isnan(value):
        return ""
    return f" = {value:,.0f} {unit}" if value >= 100 else f" = {value:.3g} {unit}"


def _magnification(rms: float, window: float) -> float:
    """A round factor that lets noise of this root mean square fill a display window of this width."""
    wanted = window / max(6 * rms, 1e-9)
    return max((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if step <= wanted), default=1)
