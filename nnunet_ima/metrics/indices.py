"""TVDI and ADI, the paper's two figures for the robustness of a segmentation (IMA paper, Sec. 4)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FAILURE_THRESHOLD = 0.6
"""A slice fails when its Dice is not above it (methods: IMA paper, Sec. 2)."""


def validated(counts: ArrayLike) -> NDArray[np.float64]:
    """Counts as an array of floats; ValueError for another shape or impossible numbers."""
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"counts must have the shape (slices, classes, 3) with TP, FP, FN, got {array.shape}.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("counts must be finite and not negative.")
    return array


def dice_index(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """2TP/(2TP+FP+FN) over the last axis; NaN where a class is in neither reference nor prediction."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    total = 2 * tp + fp + fn
    return np.asarray(np.divide(2 * tp, total, out=np.full_like(total, np.nan), where=total > 0))


def mean_dice(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """nanmean without a warning for what is all NaN."""
    present = ~np.isnan(values)
    count = present.sum(axis)
    total = np.where(present, values, 0).sum(axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


@dataclass(frozen=True)
class AdditiveMetric:
    """A figure of a set of slices that depends on sums over them only: resampled by adding, without a loop.

    parts: counts (slices, classes, 3) -> (slices, k), summed over slices; combine: sums (..., k) -> (...) figures.
    """

    parts: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    combine: Callable[[NDArray[np.float64]], NDArray[np.float64]]

    def __call__(self, counts: ArrayLike) -> float:
        return float(self.combine(self.parts(validated(counts)).sum(0)))


def _valid_and_value(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(slices,) with NaN for what does not count -> (slices, 2): value or 0, and 1 or 0."""
    return np.stack([np.nan_to_num(values), ~np.isnan(values)], -1)


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    total, count = np.moveaxis(sums, -1, 0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _class_mean_dice(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean_dice(dice_index(sums.reshape(*sums.shape[:-1], -1, 3)), axis=-1)


def _failed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    dice = slice_dice(counts)
    return np.where(np.isnan(dice), np.nan, dice <= FAILURE_THRESHOLD)


TVDI = AdditiveMetric(lambda counts: counts.reshape(len(counts), counts.shape[1] * 3), _class_mean_dice)
ADI = AdditiveMetric(lambda counts: _valid_and_value(slice_dice(counts)), _ratio)
FAILURE_RATE = AdditiveMetric(lambda counts: _valid_and_value(_failed(counts)), _ratio)


def total_voxel_dice_index(counts: ArrayLike) -> float:
    """TVDI in [0, 1]: mean over classes of 2 sum TP/(2 sum TP + sum FP + sum FN), sums over all slices.

    counts: (slices, classes, 3) = TP, FP, FN. NaN if no class occurs at all. ValueError for another shape.

    >>> round(total_voxel_dice_index([[[90, 10, 10]], [[1, 0, 9]]]), 6)
    0.862559
    """
    return TVDI(counts)


def average_dice_index(counts: ArrayLike) -> float:
    """ADI in [0, 1]: mean over slices of the class-mean Dice of each slice.

    A class in neither reference nor prediction of a slice has no Dice there and is left out of its mean, as nnU-Net
    does it; a slice without any is left out altogether. counts as for `total_voxel_dice_index`.

    >>> round(average_dice_index([[[90, 10, 10]], [[1, 0, 9]]]), 6)
    0.540909
    """
    return ADI(counts)


def slice_dice(counts: ArrayLike) -> NDArray[np.float64]:
    """Class-mean Dice of each slice, shape (slices,); NaN for a slice without any class. counts as above."""
    return mean_dice(dice_index(validated(counts)), axis=1)


def dice_left_out(counts: ArrayLike) -> int:
    """How many (slice, class) pairs have no Dice because the class is in neither reference nor prediction."""
    return int(np.isnan(dice_index(validated(counts))).sum())
