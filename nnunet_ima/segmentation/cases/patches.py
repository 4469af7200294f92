"""The patches of preprocessed cases: a 3D model attacked on what it sees at once, not on whole volumes."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from numpy.typing import NDArray

from nnunet_ima.segmentation.cases.slices import SliceChoice
from nnunet_ima.segmentation.cases.volumes import Volumes


class Patches(Volumes):
    """As few patches as cover the case are samples, numbered from 0: image (C, Z, H, W) of the patch size, or what the
    case has of it. They overlap where the case is no multiple of the patch.

    Patches without foreground in their reference do not count, but with the choice `all`.
    """

    unit = "patch"

    def _numbers(self, reference: NDArray[Any], choice: SliceChoice) -> list[int]:
        everywhere = range(len(self._windows(reference.shape)))
        counts = super()._numbers
        return [row for row in everywhere if counts(self._part(reference[None], row)[0], choice)]

    def _part(self, array: NDArray[Any], number: int) -> NDArray[Any]:
        window = (slice(None), *self._windows(array.shape[1:])[number])
        return array[window]

    def _windows(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        size = tuple(int(side) for side in np.minimum(shape, self._patch_size))
        corners = product(*compute_steps_for_sliding_window(tuple(shape), size, 1.0))
        return [
            tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True)) for corner in corners
        ]
