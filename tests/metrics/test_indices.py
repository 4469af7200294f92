import doctest
import math
import warnings

import numpy as np
import pytest
from numpy.typing import ArrayLike

from nnunet_ima.metrics import indices
from nnunet_ima.metrics.indices import average_dice_index, dice_index, dice_left_out, total_voxel_dice_index

EXAMPLE = [[[90, 10, 10]], [[1, 0, 9]]]
"""Two slices of one class; sums: 2*91/(2*91+10+19); slices: 0.9 and 2/11."""
FIGURES = [total_voxel_dice_index, average_dice_index]


def test_the_example_of_the_definitions() -> None:
    assert 100 * total_voxel_dice_index(EXAMPLE) == pytest.approx(86.2559, abs=5e-5)
    assert 100 * average_dice_index(EXAMPLE) == pytest.approx(54.0909, abs=5e-5)


def test_the_doctests_hold() -> None:
    failed, attempted = doctest.testmod(indices)
    assert attempted >= 2
    assert failed == 0


def test_total_index_averages_over_classes_after_summing_over_slices() -> None:
    counts = [[[1, 0, 0], [0, 4, 0]], [[1, 2, 2], [3, 1, 1]]]
    # Class 1: 4/(4+4); class 2: 6/(6+6).
    assert total_voxel_dice_index(counts) == pytest.approx((0.5 + 0.5) / 2)
    assert total_voxel_dice_index([[[1, 0, 0], [0, 4, 0]]]) == pytest.approx((1 + 0) / 2)


def test_average_index_averages_over_the_classes_of_a_slice_and_then_over_slices() -> None:
    counts = [[[1, 0, 0], [0, 4, 0]], [[1, 2, 2], [0, 0, 0]]]
    # Slice 1: (1 + 0)/2; slice 2: 2/6 alone. The mean over all three would be another figure.
    assert average_dice_index(counts) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_a_class_in_neither_reference_nor_prediction_has_no_dice() -> None:
    counts = [[[5, 5, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    dice = dice_index(np.asarray(counts, dtype=float))
    assert dice[0, 0] == pytest.approx(2 / 3)
    assert np.isnan(dice).tolist() == [[False, True], [True, True]]
    assert total_voxel_dice_index(counts) == pytest.approx(2 / 3)
    assert average_dice_index(counts) == pytest.approx(2 / 3)
    assert dice_left_out(counts) == 3


def test_a_class_only_predicted_has_dice_zero() -> None:
    assert average_dice_index([[[0, 7, 0], [1, 0, 0]]]) == 0.5
    assert dice_left_out([[[0, 7, 0], [1, 0, 0]]]) == 0


@pytest.mark.parametrize("counts", [np.zeros((2, 3, 3)), np.zeros((0, 2, 3))])
def test_without_any_class_the_figures_are_nan_and_nothing_warns(counts: ArrayLike) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(total_voxel_dice_index(counts))
        assert math.isnan(average_dice_index(counts))


@pytest.mark.parametrize("scale", [1, 7])
def test_perfect_and_hopeless_segmentations_are_one_and_zero(scale: int) -> None:
    perfect, hopeless = np.array([[[scale, 0, 0]]]), np.array([[[0, scale, scale]]])
    for figure in FIGURES:
        assert figure(perfect) == 1.0
        assert figure(hopeless) == 0.0


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 4), (1, 2, 1, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    for figure in (*FIGURES, dice_left_out):
        with pytest.raises(ValueError, match="counts must have the shape"):
            figure(np.ones(shape))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_counts_that_are_none_are_refused(bad: float) -> None:
    for figure in (*FIGURES, dice_left_out):
        with pytest.raises(ValueError, match="counts must be finite and not negative"):
            figure([[[1.0, bad, 0.0]]])
