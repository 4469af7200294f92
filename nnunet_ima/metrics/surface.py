"""Distances between surfaces: NSD and HD95, what Dice does not see (Metrics Reloaded, Maier-Hein et al., 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SurfaceFigures:
    """nsd: share of both surfaces within the tolerance of each other, 0 to 1; hd95: the larger of the two 95th
    percentiles of the distances, in the units of the spacing. NaN where there is nothing to compare."""

    nsd: float
    hd95: float


def surface_figures(reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float) -> SurfaceFigures:
    """NSD and HD95 of a structure (masks of equal shape, 2D or 3D). Surfaces are the voxels that have a neighbour
    (sharing a face) outside, those at the image's edge included.

    Neither mask: both NaN. Only one of them: NSD 0, HD95 NaN, for there is no distance to nothing.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"reference and prediction must have one shape, got {reference.shape} and {prediction.shape}.")
    if not reference.any() and not prediction.any():
        return SurfaceFigures(float("nan"), float("nan"))
    if not (reference.any() and prediction.any()):
        return SurfaceFigures(0.0, float("nan"))
    first, second = _surface(reference), _surface(prediction)
    distances = [_distances(first, second, spacing), _distances(second, first, spacing)]
    near = sum(int((found <= tolerance).sum()) for found in distances)
    return SurfaceFigures(
        near / sum(len(found) for found in distances), max(float(np.percentile(found, 95)) for found in distances)
    )


def _surface(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _distances(surface: Mask, other: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Of each voxel of `surface` to the nearest of `other`."""
    return np.asarray(ndimage.distance_transform_edt(~other, sampling=spacing))[surface]
