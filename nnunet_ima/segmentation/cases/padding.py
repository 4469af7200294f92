"""Zeros around what is smaller than the network's patch, as nnU-Net's predictor puts them, and their removal."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from numpy.typing import NDArray
from torch import Tensor

Image = TypeVar("Image", Tensor, NDArray[np.float32])


def pad(image: Tensor, patch_size: Sequence[int], value: float = 0.0) -> Tensor:
    """(..., H, W), for a patch with three sides (..., Z, H, W), to at least the patch, centred; differentiable."""
    padded: Tensor = pad_nd_image(image, tuple(patch_size), "constant", {"value": value}, False)
    return padded


def crop(image: Image, shape: Sequence[int]) -> Image:
    """The middle of this shape, (H, W) or (Z, H, W), over the last axes: takes away what `pad` has added."""
    middle: Image = image[_middle(image.shape[-len(shape) :], shape)]
    return middle


def _middle(whole: Sequence[int], part: Sequence[int]) -> tuple[Any, ...]:
    starts = [(one - other) // 2 for one, other in zip(whole, part, strict=True)]
    return ..., *(slice(start, start + side) for start, side in zip(starts, part, strict=True))
