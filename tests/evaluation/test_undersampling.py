"""MRI from too few lines of k-space: what is sampled, and what is left of the image."""

import pytest
import torch

from nnunet_ima.evaluation.undersampling import CENTRE, sampled_lines, undersampled, zero_filled


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_lines_are_the_image_itself() -> None:
    image = torch.randn(2, 31, 40, generator=_draw(1))
    torch.testing.assert_close(undersampled(image, 1, _draw()), image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_is_left_in_lines_that_are_not_sampled(axis: int) -> None:
    signal = torch.rand(1, 48, 48, generator=_draw(1))
    kept = sampled_lines(48, 4, _draw())
    spectrum, whole = torch.fft.fft2(zero_filled(signal, kept, axis)), torch.fft.fft2(signal)
    lines = spectrum.abs().square().sum((0, 2 - axis))
    assert (lines[~kept] < 1e-9 * lines[kept].min()).all()
    assert torch.allclose(spectrum.movedim(1 + axis, 0)[kept], whole.movedim(1 + axis, 0)[kept], atol=1e-3)


@pytest.mark.parametrize("acceleration", [2.0, 3.7, 8.0])
def test_the_acceleration_is_the_share_of_lines_and_the_centre_is_whole(acceleration: float) -> None:
    masks = torch.stack([sampled_lines(100, acceleration, _draw(seed)) for seed in range(400)]).float()
    assert masks.sum(1).mean().item() == pytest.approx(100 / acceleration, abs=0.1)
    distance = 2 * torch.fft.fftfreq(100).abs()
    assert masks[:, distance < CENTRE / acceleration].all()
    # Far from the centre fewer lines are sampled.
    near, far = ((distance > low) & (distance < low + 0.25) for low in (0.35, 0.7))
    assert masks[:, near].mean() > 1.5 * masks[:, far].mean()


def test_a_faster_scan_samples_some_of_the_same_lines() -> None:
    slow, fast = (sampled_lines(64, acceleration, _draw()) for acceleration in (2, 6))
    assert fast.sum() < slow.sum() and bool((slow | ~fast).all())


def test_the_mean_of_the_slice_survives_the_fastest_scan() -> None:
    image = 5 + torch.rand(1, 20, 20, generator=_draw(1))
    noisy = undersampled(image, 1000, _draw())
    assert noisy.mean().item() == pytest.approx(image.mean().item(), abs=1e-3) and noisy.std() < image.std()
