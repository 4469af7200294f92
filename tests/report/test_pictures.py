"""Which slices are shown, and how."""

import numpy as np
import pytest

from nnunet_ima.evaluation.noises import Settings, attack
from nnunet_ima.evaluation.sweep import Found
from nnunet_ima.plots import png
from nnunet_ima.report.pictures import _drawn, _worst_median_best, shown_row


def test_worst_median_and_best_leave_out_slices_without_dice() -> None:
    assert _worst_median_best(np.array([0.5, np.nan, 0.1, 0.9, 0.3])) == [2, 0, 3]
    assert _worst_median_best(np.array([np.nan, np.nan])) == []


@pytest.mark.parametrize(
    ("dice", "row"), [([[0.8], [0.7], [0.3], [0.0]], 2), ([[0.8], [0.7]], 1), ([[0.8]], 0), ([[np.nan], [np.nan]], 1)]
)
def test_the_level_shown_is_where_dice_has_halved(dice: list[list[float]], row: int) -> None:
    levels = [0.0, 1.0, 5.0, 10.0][: len(dice)]
    found = Found(attack("pgd", Settings()), levels, np.zeros((len(dice), 1, 1, 3), np.int64), np.zeros((len(dice), 1)))
    assert shown_row(found, np.array(dice)) == row


def test_a_slice_is_drawn_with_what_was_found_even_where_that_is_nothing() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 20, 16)).astype(np.float32)
    reference, nothing = np.zeros((1, 20, 16), bool), np.zeros((1, 20, 16), bool)
    reference[0, 5:12, 4:9] = True
    figure = _drawn(list(images), reference, [reference, nothing])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["clean", "noisy", "difference x 10", "contours"]
    shown = figure.axes[2].images[0].get_array()
    assert np.allclose(shown, 10 * (images[1] - images[0]))
    assert len(png(figure)) > 1000
