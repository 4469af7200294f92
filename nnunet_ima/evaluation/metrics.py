"""TVDI and ADI, the paper's two figures for the robustness of a segmentation (IMA paper, Sec. 4)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _validated(counts: ArrayLike) -> NDArray[np.float64]:
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


def _mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """nanmean without a warning for what is all NaN."""
    present = ~np.isnan(values)
    count = present.sum(axis)
    total = np.where(present, values, 0).sum(axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def total_voxel_dice_index(counts: ArrayLike) -> float:
    """TVDI in [0, 1]: mean over classes of 2 sum TP/(2 sum TP + sum FP + sum FN), sums over all slices.

    counts: (slices, classes, 3) = TP, FP, FN. NaN if no class occurs at all. ValueError for another shape.

    >>> round(total_voxel_dice_index([[[90, 10, 10]], [[1, 0, 9]]]), 6)
    0.862559
    """
    return float(_mean(dice_index(_validated(counts).sum(0))))


def average_dice_index(counts: ArrayLike) -> float:
    """ADI in [0, 1]: mean over slices of the class-mean Dice of each slice.

    A class in neither reference nor prediction of a slice has no Dice there and is left out of its mean, as nnU-Net
    does it; a slice without any is left out altogether. counts as for `total_voxel_dice_index`.

    >>> round(average_dice_index([[[90, 10, 10]], [[1, 0, 9]]]), 6)
    0.540909
    """
    return float(_mean(slice_dice(counts)))


def slice_dice(counts: ArrayLike) -> NDArray[np.float64]:
    """Class-mean Dice of each slice, shape (slices,); NaN for a slice without any class. counts as above."""
    return _mean(dice_index(_validated(counts)), axis=1)


def dice_left_out(counts: ArrayLike) -> int:
    """How many (slice, class) pairs have no Dice because the class is in neither reference nor prediction."""
    return int(np.isnan(dice_index(_validated(counts))).sum())
