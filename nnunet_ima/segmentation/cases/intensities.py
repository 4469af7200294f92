"""What a noise level means in the intensities that the scanner gave, for instance in Hounsfield units."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from numpy.typing import NDArray

CT = "CTNormalization"
"""What nnU-Net calls the normalisation of HU."""


def root_mean_square(noise_level: float, shape: tuple[int, ...]) -> float:
    """Root mean square per pixel (SD) of a perturbation of this L2 norm on images (C, H, W)."""
    return noise_level / math.sqrt(math.prod(shape))


def original_units(
    plans_manager: Any, configuration: Any, images: Sequence[Path] | None, reference: Path | None
) -> list[float]:
    """How many original units one normalised unit (SD) of each channel of a case is; NaN where that is unknown.

    plans_manager, configuration: nnU-Net's `PlansManager` and `ConfigurationManager`. images, reference: the raw files
    of the case, which nnU-Net itself normalises; without them, or where the normalisation is not linear, the answer
    is NaN.
    """
    if not images or reference is None:
        return [math.nan] * len(configuration.normalization_schemes)
    reader = plans_manager.image_reader_writer_class()
    # The reference matters: where nnU-Net normalises within a mask, labelled voxels belong to it.
    raw, outside, _ = crop_to_nonzero(
        reader.read_images([str(file) for file in images])[0].astype(np.float32), reader.read_seg(str(reference))[0]
    )
    preprocessor = configuration.preprocessor_class(verbose=False)
    properties = plans_manager.foreground_intensity_properties_per_channel
    normalised = preprocessor._normalize(raw.copy(), outside, configuration, properties)
    inside = outside[0] >= 0
    return [_slope(old[inside], new[inside]) for old, new in zip(raw, normalised, strict=True)]


@dataclass(frozen=True)
class CTScale:
    """How nnU-Net has normalised a CT channel: HU, clipped to low..high, less their mean, in SD. pixel: side of a pixel
    in mm (of oblong ones, of a square of the same area)."""

    mean: float
    sd: float
    low: float
    high: float
    pixel: float


def ct_scales(plans_manager: Any, configuration: Any) -> dict[int, CTScale]:
    """Of the channels that nnU-Net's plans normalise as CT, by their number; empty where no HU are known."""
    properties = plans_manager.foreground_intensity_properties_per_channel
    names = {"mean": "mean", "sd": "std", "low": "percentile_00_5", "high": "percentile_99_5"}
    pixel = math.sqrt(math.prod(configuration.spacing[-2:]))
    return {
        channel: CTScale(
            pixel=pixel, **{ours: float(properties[str(channel)][theirs]) for ours, theirs in names.items()}
        )
        for channel, scheme in enumerate(configuration.normalization_schemes)
        if scheme == CT
    }


def unit_name(configuration: Any) -> str:
    """HU where nnU-Net normalises as CT."""
    return "HU" if CT in configuration.normalization_schemes else "units"


def raw_files(dataset: str, dataset_json: dict[str, Any], case: str) -> tuple[list[Path], Path] | tuple[None, None]:
    """The raw images and the reference of a training case in nnUNet_raw, if they are all there."""
    folder = Path(os.environ.get("nnUNet_raw") or ".") / dataset  # noqa: SIM112 (nnU-Net's spelling)
    if not (folder / "dataset.json").is_file():
        return None, None
    files = get_filenames_of_train_images_and_targets(str(folder), dataset_json).get(case)
    if files is None:
        return None, None
    images, reference = [Path(file) for file in files["images"]], Path(files["label"])
    return (images, reference) if all(file.is_file() for file in (*images, reference)) else (None, None)


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
