"""Structural similarity: what it is of equal, of shifted and of unrelated images."""

import math

import numpy as np
import pytest

from nnunet_ima.metrics.similarity import mean_ssim


def test_a_constant_added_costs_luminance_only() -> None:
    """Wang et al., equation 6: (2 m n + C1) / (m^2 + n^2 + C1) where contrast and structure are the same."""
    image = np.zeros((1, 40, 40), np.float32)
    image[0, :, ::2] = 1
    inside = np.full_like(image, 0)
    inside[0, :, ::2] = 1
    assert mean_ssim(image, image) == pytest.approx(1)
    # With a window much wider than the stripes the local mean is a half.
    assert mean_ssim(image, image + 0.5) == pytest.approx((2 * 0.5 + 1e-4) / (0.25 + 1 + 1e-4), abs=1e-2)


def test_it_does_not_depend_on_units_and_is_the_mean_of_the_channels() -> None:
    random = np.random.default_rng(0)
    clean, noisy = random.normal(size=(2, 2, 30, 30)).astype(np.float32)
    both = mean_ssim(clean, noisy)
    assert both == pytest.approx(np.mean([mean_ssim(clean[[row]], noisy[[row]]) for row in range(2)]))
    assert both == pytest.approx(mean_ssim(100 * clean, 100 * noisy), abs=1e-4) and abs(both) < 0.1


def test_without_contrast_there_is_none() -> None:
    flat = np.zeros((1, 20, 20), np.float32)
    assert math.isnan(mean_ssim(flat, flat + 1))
