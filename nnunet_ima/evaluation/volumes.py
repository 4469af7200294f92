"""Whole volumes under attack: predicted by nnU-Net's own predictor, and saved to be scrolled through in a viewer."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, region_or_label_to_mask
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.journal import Journal, digest
from nnunet_ima.evaluation.noises import Noise
from nnunet_ima.evaluation.summary import finite
from nnunet_ima.evaluation.sweep import Sweep
from nnunet_ima.files import replacing
from nnunet_ima.metrics.indices import mean_dice
from nnunet_ima.metrics.surface import surface_figures
from nnunet_ima.segmentation.cases.cases import Cases
from nnunet_ima.segmentation.cases.intensities import original_units
from nnunet_ima.segmentation.cases.padding import crop
from nnunet_ima.segmentation.cases.slices import Slice

Array = NDArray[np.float32]


class KeptNoise:
    """The perturbations of one attack on disk, beside the journal, one file per level and batch, until the volumes are
    made of them. Those that an interrupted run of another model or with other settings has left are not touched."""

    def __init__(self, journal: Journal, attack: Noise) -> None:
        self.folder, self.attack = journal.folder / "noise", attack.name
        self._prefix = f"{attack.name}_{digest([journal.identity, attack.settings])}"

    def _file(self, level: float, batch: int) -> Path:
        return self.folder / f"{self._prefix}_{level:g}_{batch}.npz"

    def wants(self, noise: Noise, level: float, batch: int) -> bool:
        return noise.name == self.attack and level > 0 and not self._file(level, batch).is_file()

    def store(self, noise: Noise, level: float, batch: int, slices: Sequence[Slice], delta: Tensor) -> None:
        with replacing(self._file(level, batch)) as path:
            np.savez(
                path,
                cases=[item.case for item in slices],
                numbers=[item.number for item in slices],
                delta=delta.numpy(),
            )

    def of_case(self, case: str, level: float) -> dict[int, Array]:
        """The perturbation (C, H, W) of each attacked slice of a case, (C, Z, H, W) of a volume, as large as it was."""
        found: dict[int, Array] = {}
        for file in self.folder.glob(f"{self._prefix}_{level:g}_*.npz"):
            with np.load(file) as content:
                rows = np.flatnonzero(content["cases"] == case)
                if len(rows):
                    found |= dict(zip(content["numbers"][rows].tolist(), content["delta"][rows], strict=True))
        return found

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def predict_volumes(
    subject: Subject, found: Sweep, keep: KeptNoise, folder: Path, save: bool, tolerance: float | None = None
) -> list[dict[str, Any]]:
    """Per noise level nnU-Net's own figures of the whole cases, mirroring and tiles as in its validation: at noise 0
    those of its validation/summary.json. Only the slices that count are noisy.

    folder/noise_LEVEL/ gets nnU-Net's summary.json; with `save` also the predictions and, in images/, the noisy images
    in the geometry of the originals, ready for a viewer. tolerance (mm): NSD and HD95 as well. UserError where a raw
    file is missing.
    """
    main = next(one for one in found.found.values() if one.noise.family == "attack")
    cases = sorted({case for case, _ in found.slices})
    _check_files(subject.cases, cases, save)
    units = {case: _units(subject, case) for case in cases} if save else {}
    targets = {level: folder / f"noise_{level:g}" for level in main.levels}
    for target in targets.values():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        predictions = {level: target if save else Path(scratch, target.name) for level, target in targets.items()}
        for case in tqdm(cases, unit="volume", desc="Volumes", dynamic_ncols=True):
            for level, target in targets.items():
                noise = keep.of_case(case, level)
                predictions[level].mkdir(exist_ok=True)
                _predict(subject, case, noise, predictions[level])
                if save:
                    _save_images(subject, case, noise, units[case], target / "images")
        result = []
        for level, target in targets.items():
            figures = _summary(subject, cases, predictions[level], target / "summary.json")
            if tolerance is not None:
                figures |= _surfaces(subject, cases, predictions[level], tolerance)
            result.append({"noise": level, **figures})
    keep.remove()
    return result


def _check_files(cases: Cases, names: Sequence[str], save: bool) -> None:
    for case in names:
        if cases.reference(case) is None:
            raise UserError(f"--volumes: the reference of case {case} is missing in nnU-Net's gt_segmentations folder.")
        if save and cases.images(case) is None:
            raise UserError(
                f"--save-volumes: the raw images of case {case} are missing; set nnUNet_raw, or use -i, -gt."
            )


def _units(subject: Subject, case: str) -> list[float]:
    plans, configuration = subject.predictor.plans_manager, subject.predictor.configuration_manager
    found = original_units(plans, configuration, subject.cases.images(case), subject.cases.reference(case))
    if not np.isfinite(found).all():
        raise UserError(
            f"--save-volumes: nnU-Net normalises case {case} in a way that cannot be undone; use --volumes instead."
        )
    return found


def _noise_volume(shape: tuple[int, ...], noise: dict[int, Array]) -> Array:
    """The perturbation of a whole preprocessed case, (C, Z, H, W): zero where no slice was attacked. What was put on
    padding is left out. Of a 3D model it is the noise of the only sample."""
    volume = np.zeros(shape, dtype=np.float32)
    for number, delta in noise.items():
        if delta.ndim == volume.ndim:
            return crop(delta, shape[1:])
        volume[:, number] = crop(delta, shape[2:])
    return volume


def _predict(subject: Subject, case: str, noise: dict[int, Array], folder: Path) -> None:
    """nnU-Net's prediction of a noisy case in its original geometry."""
    predictor = subject.predictor
    data, _, _, properties = subject.cases.load_case(case)
    volume = torch.from_numpy(np.asarray(data, np.float32) + _noise_volume(data.shape, noise))
    predictor.use_mirroring, before = True, predictor.use_mirroring
    try:
        # Of an ensemble the mean of its folds.
        logits = predictor.predict_logits_from_preprocessed_data(volume)
    finally:
        predictor.use_mirroring = before
    segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties
    )
    reader = predictor.plans_manager.image_reader_writer_class()
    reader.write_seg(segmentation, str(folder / f"{case}{predictor.dataset_json['file_ending']}"), properties)


def _summary(subject: Subject, cases: Sequence[str], predictions: Path, file: Path) -> dict[str, Any]:
    """nnU-Net's summary of a folder of predictions, and its foreground mean of Dice in percent."""
    predictor, labels = subject.predictor, subject.predictor.label_manager
    reference = subject.cases.reference(cases[0])
    assert reference is not None
    found = compute_metrics_on_folder(
        str(reference.parent),
        str(predictions),
        str(file),
        predictor.plans_manager.image_reader_writer_class(),
        predictor.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        num_processes=1,
    )
    return {"foreground_dice": round(100 * float(found["foreground_mean"]["Dice"]), 4), "cases": len(cases)}


def _surfaces(subject: Subject, cases: Sequence[str], predictions: Path, tolerance: float) -> dict[str, Any]:
    """NSD in percent and HD95 in mm: means over cases of each structure, and of the structures."""
    predictor, labels = subject.predictor, subject.predictor.label_manager
    reader = predictor.plans_manager.image_reader_writer_class()
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    found = np.full((len(cases), len(foreground), 2), np.nan)
    for row, case in enumerate(cases):
        (truth, properties), (guess, _) = (
            reader.read_seg(str(file))
            for file in (subject.cases.reference(case), predictions / f"{case}{predictor.dataset_json['file_ending']}")
        )
        for column, label in enumerate(foreground):
            masks = [region_or_label_to_mask(segmentation[0], label) for segmentation in (truth, guess)]
            figures = surface_figures(masks[0], masks[1], properties["spacing"], tolerance)
            found[row, column] = 100 * figures.nsd, figures.hd95
    means = mean_dice(found, axis=0)
    return {
        "tolerance_mm": tolerance,
        "nsd": finite(float(mean_dice(means[:, 0]))),
        "hd95_mm": finite(float(mean_dice(means[:, 1]))),
        "hd95_left_out": int(np.isnan(found[..., 1]).sum()),
        "nsd_per_class": {name: finite(float(value)) for name, value in zip(subject.classes, means[:, 0], strict=True)},
    }


def _save_images(subject: Subject, case: str, noise: dict[int, Array], units: Sequence[float], folder: Path) -> None:
    """The raw images plus the noise in their own units and geometry, one file per channel as nnU-Net names them."""
    predictor = subject.predictor
    data, _, _, properties = subject.cases.load_case(case)
    files = subject.cases.images(case)
    assert files is not None
    raw, _ = predictor.plans_manager.image_reader_writer_class().read_images([str(file) for file in files])
    delta = _in_original_geometry(predictor, _noise_volume(tuple(data.shape), noise), properties)
    folder.mkdir(exist_ok=True)
    for channel, (image, change, unit) in enumerate(zip(raw, delta, units, strict=True)):
        noisy = image.astype(np.float32) + np.float32(unit) * change
        written = SimpleITK.GetImageFromArray(noisy)
        _copy_geometry(files[min(channel, len(files) - 1)], written)
        SimpleITK.WriteImage(written, str(folder / f"{case}_{channel:04d}.nii.gz"))


def _in_original_geometry(predictor: Any, delta: Array, properties: dict[str, Any]) -> Array:
    """nnU-Net's preprocessing backwards: resampled, put back where it was cropped, transposed back."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    current = (
        configuration.spacing if len(configuration.spacing) == len(shape) else [spacing[0], *configuration.spacing]
    )
    resampled = np.asarray(configuration.resampling_fn_data(delta, shape, current, spacing), dtype=np.float32)
    whole = np.zeros((len(delta), *properties["shape_before_cropping"]), dtype=np.float32)
    for channel, image in enumerate(resampled):
        whole[channel] = insert_crop_into_image(whole[channel], image, properties["bbox_used_for_cropping"])
    back: Array = whole.transpose([0, *[axis + 1 for axis in plans.transpose_backward]])
    return back


def _copy_geometry(file: Path, image: Any) -> None:
    """Spacing, origin and direction of the raw file, where it has the same size; else (natural images) none."""
    raw = SimpleITK.ReadImage(str(file))
    if raw.GetSize() == image.GetSize():
        image.CopyInformation(raw)
