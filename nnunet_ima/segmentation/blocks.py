"""What a margin belongs to in training: a slice of a case in 2D, a block of it in 3D."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from nnunet_ima.errors import UserError

SampleId = tuple[Any, ...]
"""Case key, then the number of the slice; in 3D the numbers of the block along the three axes."""
Foreground = NDArray[np.bool_]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a preprocessed case (Z, Y, X). A patch belongs to the block of its centre.

    2D: every slice is a block. 3D: blocks are half a patch long along each axis, so that two patches of one block share
    at least a half of it along each axis.

    patch: sides of the patch along the axes that are cut; the others are not cut (2D: only the first, one slice thick).
    """

    patch: tuple[int, ...]

    @classmethod
    def of(cls, patch_size: Sequence[int]) -> "Blocks":
        """For a configuration with this patch: (H, W), or (Z, Y, X)."""
        return cls((1,) if len(patch_size) == 2 else tuple(int(side) for side in patch_size))

    @property
    def are_slices(self) -> bool:
        return len(self.patch) == 1

    @property
    def edges(self) -> tuple[int, ...]:
        return tuple(max(1, side // 2) for side in self.patch)

    def number(self, centre: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """The block in which a patch with this central voxel lies, in a case of this shape."""
        return tuple(
            min(max(at, self._first_centre(side, size)), size - 1) // edge
            for at, side, size, edge in zip(centre, self.patch, shape, self.edges, strict=False)
        )

    @staticmethod
    def _first_centre(side: int, size: int) -> int:
        """nnU-Net draws no patch that begins before the case, but for its padding."""
        return min(side, size) // 2

    def numbers(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Every block of a case of this shape in which the centre of a patch can lie."""
        return list(
            product(
                *(
                    range(self._first_centre(side, size) // edge, -(-size // edge))
                    for side, size, edge in zip(self.patch, shape, self.edges, strict=False)
                )
            )
        )

    def showing(self, foreground: Foreground) -> list[tuple[int, ...]]:
        """Those whose patches can hold foreground; foreground: (Z, Y, X)."""
        within = foreground
        for axis, edge in enumerate(self.edges):
            within = np.logical_or.reduceat(within, range(0, within.shape[axis], edge), axis)
        within = np.asarray(within.any(tuple(range(len(self.edges), within.ndim))))
        # A patch reaches over the neighbours of its block, unless it is one voxel thin.
        reach = np.ones([3 if side > 1 else 1 for side in self.patch], bool)
        within = np.asarray(binary_dilation(within, reach))
        return [number for number in self.numbers(foreground.shape) if within[number]]

    def voxels(self, number: Sequence[int]) -> tuple[slice, ...]:
        """Of a block, along the axes that are cut."""
        return tuple(slice(at * edge, (at + 1) * edge) for at, edge in zip(number, self.edges, strict=True))


def samples_of(dataset: Any, labels: Any, blocks: Blocks, show_progress: bool = False) -> tuple[list[SampleId], int]:
    """Blocks of an nnU-Net data set whose patches can hold foreground, and how many blocks there are in all.

    labels: nnU-Net's `LabelManager`; foreground is what belongs to one of its classes or regions.
    Reads every case once: UserError, naming it, for one whose intensities are not finite.
    """
    with_foreground: list[SampleId] = []
    total = 0
    for case in tqdm(sorted(dataset.identifiers), "IMA looks at the cases", disable=not show_progress, leave=False):
        data, segmentation = (np.asarray(array[:]) for array in dataset.load_case(case)[:2])
        if not np.isfinite(data).all():
            raise UserError(f"Case {case} has intensities that are not finite: repair the image and preprocess again.")
        total += len(blocks.numbers(segmentation.shape[1:]))
        foreground = np.isin(segmentation[0], labels.foreground_labels)
        with_foreground += [(case, *number) for number in blocks.showing(foreground)]
    return with_foreground, total


def intensity_range(dataset: Any, blocks: Blocks, samples: Sequence[SampleId]) -> float:
    """How far the 0.5 and 99.5 percentiles of the preprocessed images lie apart, within the blocks of `samples`."""
    wanted: dict[str, list[Sequence[int]]] = {}
    for sample in samples:
        wanted.setdefault(sample[0], []).append(sample[1:])
    parts = []
    for case, numbers in wanted.items():
        data = np.asarray(dataset.load_case(case)[0][:])
        chosen = np.zeros(data.shape[1:], bool)
        for number in numbers:
            chosen[blocks.voxels(number)] = True
        # Every 13th pixel is plenty for a percentile.
        parts.append(data[:, chosen].ravel()[::13])
    low, high = np.percentile(np.concatenate(parts), [0.5, 99.5])
    return float(high - low)
