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
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MEDICAL = (".dcm", ".nii", ".nii.gz")


def is_image(path: Path) -> bool:
    return path.name.lower().endswith((*PICTURES, *MEDICAL))


def read_image(path: Path, size: int, channels: int = 1) -> Tensor:
    """(channels, size, size) float32 in [0, 1], resized with antialiasing.

    Pictures are divided by the largest value of their type (255, 65535); colours become grey where one channel is
    wanted, grey is repeated where several are. DICOM and NIfTI slices, of any number of channels, have no such largest
    value: their own least and largest become 0 and 1.

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
        if channels not in MODES:
            raise ValueError(f"a picture has 1, 3 or 4 channels, not {channels}")
        array = np.asarray(picture if deep else picture.convert(MODES[channels]))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if len(array) != channels:
        array = array[:1].repeat(channels, 0)
    return (array / (65535 if deep else 255)).astype(np.float32)


def _slice(path: Path, channels: int) -> NDArray[np.float32]:
    image = SimpleITK.ReadImage(str(path))
    own = image.GetNumberOfComponentsPerPixel()
    array = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    # Channels first, and a volume of one slice as that slice.
    array = np.moveaxis(array, -1, 0) if own > 1 else array[None]
    array = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
    if array.ndim != 3:
        raise ValueError(f"it is no single slice but has the shape {' x '.join(map(str, array.shape[1:]))}")
    if own not in (1, channels) and channels != 1:
        raise ValueError(f"it has {own} channels, not {channels}")
    if own != channels:
        array = np.repeat(array.mean(0, keepdims=True), channels, axis=0)
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else np.zeros_like(array)
