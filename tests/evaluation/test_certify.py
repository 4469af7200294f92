"""Certificates against closed forms: of a pixel-wise linear model the distance of each pixel is known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.certify import (
    ALPHA,
    certain_counts,
    certified,
    figures,
    holds,
    holm,
    pooled_certificate,
    radius,
    reachable,
    samples_needed,
    votes,
)
from nnunet_ima.evaluation.evaluate import Choice
from nnunet_ima.evaluation.noises import Target
from nnunet_ima.segmentation.cases.slices import Slice

LABELS = SimpleNamespace(has_regions=False, foreground_labels=(1,), ignore_label=None)
REGIONS = SimpleNamespace(has_regions=True, foreground_regions=((1,), (2,)), ignore_label=None)
CHOICE = Choice((5.0,))


def sign(x: Tensor) -> Tensor:
    """Label 1 where the intensity is above 0: the distance of a pixel is its intensity."""
    return torch.cat([-x, x], 1)


def image() -> Tensor:
    return torch.linspace(-3, 3, 400).view(1, 20, 20)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.75, 0.95])
def test_only_pixels_farther_than_the_radius_are_certified(sigma: float, threshold: float) -> None:
    x = image()
    target = Target(sign, LABELS)
    generator = torch.Generator().manual_seed(0)
    counted = votes(target, x[None], sigma, 1000, generator, 64)
    assert counted.shape == (2, 1, 20, 20) and bool((counted.sum(0) == 1000).all())
    guess = counted.argmax(0)
    sure = holds(counted.gather(0, guess[None])[0], torch.ones(1, 20, 20, dtype=torch.bool), 1000, threshold)
    distance = x.abs()
    assert float(distance[sure].min()) >= radius(sigma, threshold)
    # Not needlessly strict: what is clearly farther is certified.
    assert bool(sure[distance > radius(sigma, threshold) + 0.6 * sigma].all()) and not sure.all()


def test_no_noise_within_the_radius_changes_a_certified_pixel() -> None:
    """The smoothed model's answer is the sign of the intensity: the worst noise lowers one pixel by the radius."""
    x = image()
    found = certified(Target(sign, LABELS), Slice("case", 0, x, (x > 0).long()), 1.0, 300, [0.75], CHOICE)
    tp, fp, fn = found["counts"][0][0]
    sure = int((x > radius(1.0, 0.75)).sum())
    assert tp <= sure and fn == 200 - tp and fp >= 200 - sure
    # Ten guesses name the wrong class near the boundary only, where the pixel then abstains.
    assert found["clean"][0][0] > 180 and 0 < found["abstained"][0] < 0.5


def test_regions_are_tested_one_by_one() -> None:
    x = image()

    def network(batch: Tensor) -> Tensor:
        return torch.cat([batch, batch - 1], 1)

    reference = torch.cat([x > 0, x > 1, torch.zeros_like(x, dtype=torch.bool)]).float()
    found = certified(Target(network, REGIONS), Slice("case", 0, x, reference), 0.5, 300, [0.75, 0.85], CHOICE)
    counts = np.asarray(found["counts"])
    assert counts.shape == (2, 2, 3) and (counts[1, :, 0] <= counts[0, :, 0]).all()
    assert (counts[:, :, 0] + counts[:, :, 2] == [200, int((x > 1).sum())]).all()


def test_pixels_that_do_not_count_are_left_out() -> None:
    x = image()
    reference = (x > 0).long()
    reference[0, :5] = -1
    found = certified(Target(sign, LABELS), Slice("case", 0, x, reference), 1.0, 300, [0.75], CHOICE)
    tp, fp, fn = found["counts"][0][0]
    assert tp + fn == 200 and fp <= 100


def test_the_same_slice_has_the_same_certificate() -> None:
    item = Slice("case", 3, image(), (image() > 0).long())
    runs = [
        certified(Target(sign, LABELS), item, 1.0, 200, [0.75], Choice((5.0,), batch_size=size)) for size in (7, 200)
    ]
    assert runs[0] == runs[1]


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005]), 0.05).tolist() == [True, False, False, True]
    assert holm(np.array([0.01, 0.01]), 0.05).all() and not holm(np.array([0.2, 0.03]), 0.05).any()


def test_numbers_of_votes_of_the_literature() -> None:
    """For 2240 pixels, as the reference notes have them."""
    assert [samples_needed(threshold, 2240) for threshold in (0.75, 0.95, 0.99)] == [51, 286, 1455]
    assert radius(1.0, 0.75) == pytest.approx(0.67, abs=0.01) and radius(2.0, 0.95) == pytest.approx(3.29, abs=0.01)
    assert reachable(100, 2240) == [0.75, 0.85] and ALPHA == 0.001
    with pytest.raises(UserError, match=r"--certify-samples 20 can certify nothing: .* needs at least 51"):
        reachable(20, 2240)


def test_an_abstaining_pixel_is_an_error_for_both() -> None:
    positive, sure = torch.tensor([[[True, True, False, False]]]), torch.tensor([[[True, False, True, False]]])
    valid: Any = torch.ones(1, 1, 4, dtype=torch.bool)
    both = [certain_counts(positive, sure, torch.full((1, 1, 4), one), valid) for one in (True, False)]
    assert both == [[[1, 0, 3]], [[0, 3, 0]]]


def test_folds_are_pooled_slice_by_slice() -> None:
    """At the radii that all of them have, with intervals over all cases."""
    told = {"sigma": 1.0, "samples": 100, "alpha": ALPHA}
    rows: list[dict[str, Any]] = [
        {"case": case, "slice": 0, "clean": [[9, 1, 0]], "counts": [[[8, tp, 2]], [[4, 0, 6]]], "abstained": [0.1, 0.5]}
        for case, tp in (("a", 0), ("b", 2), ("c", 4))
    ]
    one = figures(rows[:2], (0.75, 0.85), told)
    other = figures([rows[2] | {"counts": rows[2]["counts"][:1], "abstained": [0.1]}], (0.75,), told)
    together = pooled_certificate([one, other])
    assert [level["threshold"] for level in together["levels"]] == [0.75]
    shortened = [row | {"counts": row["counts"][:1], "abstained": row["abstained"][:1]} for row in rows]
    assert together == figures(shortened, (0.75,), told)
    low, high = together["levels"][0]["adi_interval"]
    assert low < together["levels"][0]["adi"] < high
