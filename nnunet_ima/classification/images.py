"""Single images of any usual format as tensors in [0, 1]."""

from pathlib import Path

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from nnunet_ima.errors import UserError, first_line

PICTURES = (".png", ".jpg", ".jpeg")
MEDICAL = (".dcm", ".nii", ".nii.gz")


def is_image(path: Path) -> bool:
    return path.name.lower().endswith((*PICTURES, *MEDICAL))


def read_image(path: Path, size: int, channels: int = 1) -> Tensor:
    """(channels, size, size) float32 in [0, 1], resized with antialiasing.

    Pictures are divided by the largest value of their type (255, 65535); colours become grey where one channel is
    wanted. DICOM and NIfTI slices have no such largest value: their own least and largest become 0 and 1.

    UserError, naming the file, for one that cannot be read, is no single slice, or is not finite.
    """
    try:
        array = _picture(path, channels) if path.name.lower().endswith(PICTURES) else _slice(path, channels)
    except (OSError, RuntimeError, ValueError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): repair or remove it.") from error
    if not np.isfinite(array).all():
        raise UserError(f"{path} has intensities that are not finite: repair or remove it.")
    image = torch.from_numpy(array)[None]
    if image.shape[2:] != (size, size):
        image = functional.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return image[0].clamp(0, 1)


def _picture(path: Path, channels: int) -> NDArray[np.float32]:
    with Image.open(path) as picture:
        deep = picture.mode.startswith("I")
        array = np.asarray(picture if deep else picture.convert("L" if channels == 1 else "RGB"))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if len(array) != channels:
        array = array[:1].repeat(channels, 0)
    return (array / (65535 if deep else 255)).astype(np.float32)


def _slice(path: Path, channels: int) -> NDArray[np.float32]:
    array = np.squeeze(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))).astype(np.float32)
    if array.ndim != 2:
        raise ValueError(f"it is no single slice but has the shape {' x '.join(map(str, array.shape))}")
    low, high = float(array.min()), float(array.max())
    scaled = (array - low) / (high - low) if high > low else np.zeros_like(array)
    return np.repeat(scaled[None], channels, axis=0)
