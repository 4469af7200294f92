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
    images = _raw_images(plans_manager.dataset_name, dataset_json, case)
    if images is None:
        return [math.nan] * len(configuration.normalization_schemes)
    raw, _ = plans_manager.image_reader_writer_class().read_images(images)
    raw, outside, _ = crop_to_nonzero(raw.astype(np.float32))
    preprocessor = configuration.preprocessor_class(verbose=False)
    properties = plans_manager.foreground_intensity_properties_per_channel
    normalised = preprocessor._normalize(raw.copy(), outside, configuration, properties)
    inside = outside[0] >= 0
    return [_slope(old[inside], new[inside]) for old, new in zip(raw, normalised, strict=True)]


def _raw_images(dataset: str, dataset_json: dict[str, Any], case: str) -> list[str] | None:
    folder = Path(os.environ.get("nnUNet_raw") or ".") / dataset  # noqa: SIM112 (nnU-Net's spelling)
    if not (folder / "dataset.json").is_file():
        return None
    cases = get_filenames_of_train_images_and_targets(str(folder), dataset_json)
    images: list[str] | None = cases[case]["images"] if case in cases else None
    return images if images and all(Path(image).is_file() for image in images) else None


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
