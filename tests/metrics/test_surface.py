"""NSD and HD95 against distances known by hand."""

import numpy as np
import pytest

from nnunet_ima.metrics.surface import surface_figures


def _box(offset: int = 0) -> np.ndarray:
    mask = np.zeros((12, 30, 30), dtype=bool)
    mask[3:9, 5 + offset : 15 + offset, 5:15] = True
    return mask


def test_equal_masks_are_at_no_distance() -> None:
    found = surface_figures(_box(), _box(), (1, 1, 1), 0.0)
    assert (found.nsd, found.hd95) == (1, 0)


def test_a_moved_box() -> None:
    """Moved by 3 voxels of 2 mm: the faces along the move are 6 mm apart, those across it hardly."""
    found = surface_figures(_box(), _box(3), (1, 2, 1), 6.0)
    assert (found.nsd, found.hd95) == (1, 6)
    assert surface_figures(_box(), _box(3), (1, 2, 1), 5.9).nsd < 1


def test_parallel_planes_have_one_distance() -> None:
    first, second = np.zeros((10, 8), bool), np.zeros((10, 8), bool)
    first[2], second[6] = True, True
    found = surface_figures(first, second, (0.5, 1), 1.9)
    assert (found.nsd, found.hd95) == (0, 2)
    assert surface_figures(first, second, (0.5, 1), 2.0).nsd == 1


def test_what_is_not_there() -> None:
    nothing = np.zeros_like(_box())
    lost = surface_figures(_box(), nothing, (1, 1, 1), 2.0)
    assert lost.nsd == 0 and np.isnan(lost.hd95)
    assert np.isnan(surface_figures(nothing, nothing, (1, 1, 1), 2.0).nsd)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        surface_figures(_box(), _box()[1:], (1, 1, 1), 1.0)
