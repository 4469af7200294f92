"""CT at a low dose: the size of its noise, in HU, and what it leaves alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ima.evaluation.low_dose import SCANNER_VIEWS, WATER, hounsfield_noise, low_dose
from nnunet_ima.segmentation.cases.intensities import CTScale, ct_scales

SCALE = CTScale(mean=0.0, sd=200.0, low=-1000.0, high=1000.0, pixel=2.0)


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _disc(size: int = 96, radius: float = 40) -> tuple[Any, Any]:
    """Water in air, in HU, and the distance from the middle in pixels."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    distance = np.hypot(rows, columns)
    return np.where(distance < radius, 0.0, -1000.0), distance


def test_the_variance_in_water_is_that_of_the_dose() -> None:
    """It falls as 1 / dose; in the middle it is what filtered back projection makes of the rays through it.

    pi^2 / (12 views) of the rays' variance (Kak and Slaney, 1988) before linear interpolation between rays, which
    leaves 2/3 + 1/3 of the correlation of neighbours, -6 / pi^2, on average.
    """
    disc, distance = _disc()
    small, large = (hounsfield_noise(disc, dose, 2.0, _draw()) for dose in (1e5, 4e6))
    assert small[distance < 30].var() / large[distance < 30].var() == pytest.approx(40, rel=0.05)
    rays = np.exp(WATER * 2 * 40 * 2.0) / 1e5
    interpolated = 2 / 3 - 1 / 3 * 6 / np.pi**2
    expected = np.pi**2 / 12 * interpolated * rays / SCANNER_VIEWS / 2.0**2 * (1000 / WATER) ** 2
    assert small[distance < 8].var() == pytest.approx(expected, rel=0.2)
    # Fewer photons come through the middle than near the edge.
    assert small[distance < 8].std() > 1.3 * small[(distance > 32) & (distance < 38)].std()


def test_an_endless_dose_changes_nothing() -> None:
    image = torch.from_numpy(_disc(40, 15)[0]).float()[None] / 200
    torch.testing.assert_close(low_dose(image, 1e14, _draw(), {0: SCALE}), image, atol=1e-4, rtol=0)
    assert not torch.equal(low_dose(image, 1e5, _draw(), {0: SCALE}), image)


def test_hardly_any_photons_still_give_an_image() -> None:
    image = torch.zeros(1, 40, 40)
    assert torch.isfinite(low_dose(image, 1e-3, _draw(), {0: SCALE})).all()


def test_only_channels_of_ct_change_and_slices_may_be_oblong() -> None:
    image = torch.randn(2, 30, 44, generator=_draw())
    noisy = low_dose(image, 1e5, _draw(), {1: SCALE})
    assert torch.equal(noisy[0], image[0]) and not torch.equal(noisy[1], image[1])


def test_air_that_was_clipped_away_stays_what_it_is() -> None:
    """In a window of organs air and fat are one value; air lets all photons through, and no noise lifts it."""
    disc, distance = _disc(64, 24)
    window = CTScale(mean=0.0, sd=50.0, low=-100.0, high=200.0, pixel=2.0)
    seen = np.clip(disc, window.low, window.high)
    change = low_dose(torch.from_numpy(seen / 50).float()[None], 1e6, _draw(), {0: window})[0].numpy() * 50 - seen
    assert not change[distance > 25].any()
    whole = hounsfield_noise(disc, 1e6, 2.0, _draw())
    np.testing.assert_allclose(change[distance < 20], np.clip(whole, -100, 200)[distance < 20], atol=1e-3)


def test_the_scale_is_that_of_the_plans() -> None:
    properties = {"mean": 80.0, "std": 25.0, "percentile_00_5": -17.0, "percentile_99_5": 200.0}
    plans = SimpleNamespace(foreground_intensity_properties_per_channel={"0": {}, "1": properties})
    schemes = ["ZScoreNormalization", "CTNormalization"]
    configuration = SimpleNamespace(normalization_schemes=schemes, spacing=[0.8, 0.8])
    found = ct_scales(plans, configuration)
    assert found == {1: CTScale(80.0, 25.0, -17.0, 200.0, found[1].pixel)} and found[1].pixel == pytest.approx(0.8)
