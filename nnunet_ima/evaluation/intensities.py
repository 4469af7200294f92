"""What a noise level means in the intensities that the scanner gave, for instance in Hounsfield units."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from numpy.typing import NDArray


def root_mean_square(noise_level: float, shape: tuple[int, ...]) -> float:
    """Root mean square per pixel (SD) of a perturbation of this L2 norm on images (C, H, W)."""
    return noise_level / math.sqrt(math.prod(shape))


def original_units(plans_manager: Any, configuration: Any, dataset_json: dict[str, Any], case: str) -> list[float]:
    """How many original units one normalised unit (SD) of each channel of a case is; NaN where that is unknown.

    plans_manager, configuration: nnU-Net's `PlansManager` and `ConfigurationManager`. The raw image is read from
    nnUNet_raw and normalised by nnU-Net itself; without it, or where the normalisation is not linear, the answer is
    NaN.
    """
    files = _raw_files(plans_manager.dataset_name, dataset_json, case)
    if files is None:
        return [math.nan] * len(configuration.normalization_schemes)
    reader = plans_manager.image_reader_writer_class()
    # The reference matters: where nnU-Net normalises within a mask, labelled voxels belong to it.
    raw, outside, _ = crop_to_nonzero(
        reader.read_images(files["images"])[0].astype(np.float32), reader.read_seg(files["label"])[0]
    )
    preprocessor = configuration.preprocessor_class(verbose=False)
    properties = plans_manager.foreground_intensity_properties_per_channel
    normalised = preprocessor._normalize(raw.copy(), outside, configuration, properties)
    inside = outside[0] >= 0
    return [_slope(old[inside], new[inside]) for old, new in zip(raw, normalised, strict=True)]


def _raw_files(dataset: str, dataset_json: dict[str, Any], case: str) -> dict[str, Any] | None:
    """The raw "images" and the "label" of a training case, if they are there."""
    folder = Path(os.environ.get("nnUNet_raw") or ".") / dataset  # noqa: SIM112 (nnU-Net's spelling)
    if not (folder / "dataset.json").is_file():
        return None
    cases = get_filenames_of_train_images_and_targets(str(folder), dataset_json)
    files: dict[str, Any] | None = cases.get(case)
    there = files is not None and all(Path(file).is_file() for file in (*files["images"], files["label"]))
    return files if there else None


def _slope(raw: NDArray[Any], normalised: NDArray[Any]) -> float:
    """d raw / d normalised of a linear relation, ends left out: intensities are clipped there. NaN if not linear."""
    raw, normalised = raw.astype(np.float64), normalised.astype(np.float64)
    within = (normalised > normalised.min()) & (normalised < normalised.max())
    raw, normalised = raw[within], normalised[within]
    if len(raw) == 0 or np.ptp(normalised) == 0:
        return math.nan
    slope, offset = np.polyfit(normalised, raw, 1)
    residual = np.abs(raw - slope * normalised - offset).max()
    return float(slope) if residual < 1e-3 * np.ptp(raw) else math.nan
