"""What a margin belongs to: slices in 2D, blocks of half a patch in 3D."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunet_ima.segmentation.blocks import Blocks, intensity_range, samples_of

SHAPES = [(24, 24, 24), (5, 40, 33), (1, 64, 17), (9, 8, 7)]
PATCHES = [(16, 16, 16), (8, 8, 8), (1, 24, 24), (2, 13, 9), (28, 32, 28)]


class Cases:
    """A data set of one case."""

    identifiers = ("a",)

    def __init__(self, foreground: Any, image: Any = None) -> None:
        self.image = np.zeros(foreground.shape, np.float32) if image is None else image
        self.foreground = foreground.astype(np.int16)

    def load_case(self, case: str) -> Any:
        return self.image[None], self.foreground[None], None, {}


def centres(shape: tuple[int, ...], patch: tuple[int, ...]) -> Any:
    """Every central voxel of a patch that nnU-Net can draw from a case: without augmentation the patch begins within
    the case, and around foreground it may end outside."""
    return np.stack(
        np.meshgrid(
            *(range(min(side, size) // 2, size) for side, size in zip(patch, shape, strict=True)), indexing="ij"
        ),
        -1,
    ).reshape(-1, 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_every_centre_lies_in_one_of_the_blocks(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    blocks = Blocks.of(patch)
    reached = {blocks.number(centre.tolist(), shape) for centre in centres(shape, patch)}
    assert reached == set(blocks.numbers(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_the_blocks_that_show_foreground_are_those_whose_patches_can(
    shape: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    foreground = np.zeros(shape, bool)
    at = tuple(np.random.default_rng(sum(shape)).integers(0, side) for side in shape)
    foreground[at] = True
    blocks = Blocks.of(patch)
    within = (
        {blocks.number(centre.tolist(), shape)}
        for centre in centres(shape, patch)
        if all(
            low <= voxel < low + side for voxel, low, side in zip(at, centre - np.array(patch) // 2, patch, strict=True)
        )
    )
    seen: set[tuple[int, ...]] = set().union(*within)
    found = set(blocks.showing(foreground))
    assert seen <= found
    # Not every block of the image: at most the one around the voxel and its neighbours.
    assert len(found) <= 27


def test_a_slice_is_a_block() -> None:
    blocks = Blocks.of((64, 48))
    assert blocks.are_slices and blocks.numbers((3, 100, 100)) == [(0,), (1,), (2,)]
    foreground = np.zeros((3, 100, 100), bool)
    foreground[1, 5, 7] = True
    assert blocks.showing(foreground) == [(1,)] and blocks.number((2, 31, 24), (3, 100, 100)) == (2,)


def test_samples_are_named_by_case_and_block() -> None:
    foreground = np.zeros((16, 16, 40), bool)
    foreground[8, 8, 38] = True
    blocks = Blocks.of((16, 16, 16))
    labels = SimpleNamespace(foreground_labels=[1])
    found, total = samples_of(Cases(foreground), labels, blocks)
    # Along the last axis centres begin at 8: blocks 1 to 4, of which the last reaches the voxel, and its neighbour.
    assert found == [("a", 1, 1, 3), ("a", 1, 1, 4)] and total == 4


def test_the_range_of_intensities_is_that_of_the_blocks() -> None:
    foreground, image = np.zeros((16, 16, 40), bool), np.zeros((16, 16, 40), np.float32)
    image[8:, 8:, 32:] = np.linspace(-1, 3, 8 * 8 * 8).reshape(8, 8, 8)
    image[:, :, :8] = 100
    blocks = Blocks.of((16, 16, 16))
    assert intensity_range(Cases(foreground, image), blocks, [("a", 1, 1, 4)]) == pytest.approx(3.96, abs=0.1)
