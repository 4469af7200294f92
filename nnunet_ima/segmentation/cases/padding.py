"""Zeros around what is smaller than the network's patch, as nnU-Net's predictor puts them, and their removal."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from numpy.typing import NDArray
from torch import Tensor

Image = TypeVar("Image", Tensor, NDArray[np.float32])


def pad(image: Tensor, patch_size: Sequence[int], value: float = 0.0) -> Tensor:
    """(..., H, W) to at least the patch size, centred; differentiable."""
    padded: Tensor = pad_nd_image(image, tuple(patch_size), "constant", {"value": value}, False)
    return padded


def crop(image: Image, shape: Sequence[int]) -> Image:
    """The middle (..., H, W) of this shape: takes away what `pad` has added."""
    top, left = ((whole - part) // 2 for whole, part in zip(image.shape[-2:], shape, strict=True))
    return image[..., top : top + shape[0], left : left + shape[1]]
