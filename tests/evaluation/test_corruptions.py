"""Noise that scanners make: its size, its statistics, and that a slice's noise is its own."""

import pytest
import torch
from torch import Tensor

from nnunet_ima.evaluation.corruptions import CORRUPTIONS, NEED_TORCHIO, available, corruption, has_torchio
from nnunet_ima.evaluation.noise_names import ATTACK_NAMES, CORRUPTION_NAMES
from nnunet_ima.evaluation.noises import ATTACKS, Target
from nnunet_ima.metrics.similarity import mean_ssim
from nnunet_ima.segmentation.cases.intensities import CTScale

TARGET = Target(lambda x: x, None, None, {0: CTScale(40.0, 300.0, -1000.0, 1000.0, 2.0)})


def _images(count: int = 2, side: int = 64) -> Tensor:
    """Smooth blobs on a dark ground, normalised."""
    rows, columns = torch.meshgrid(torch.linspace(-2, 2, side), torch.linspace(-2, 2, side), indexing="ij")
    image = 2 * torch.exp(-(rows**2) - columns**2) - 1 + 0.2 * torch.sin(9 * rows)
    return image.expand(count, 1, side, side).contiguous()


def _noisy(name: str, severity: float, x: Tensor | None = None) -> Tensor:
    x = _images() if x is None else x
    return corruption(name)(TARGET, x, x, severity, [str(number) for number in range(len(x))])


def test_the_names_the_command_takes_are_those_there_are() -> None:
    assert tuple(CORRUPTIONS) == CORRUPTION_NAMES and tuple(ATTACKS) == ATTACK_NAMES


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_each_grows_with_severity_and_is_the_same_when_made_again(name: str) -> None:
    if name in NEED_TORCHIO and not has_torchio():
        pytest.skip("needs TorchIO, an optional extra")
    x = _images(side=32)
    noisy = [_noisy(name, severity, x) for severity in (0, 1, 3, 5)]
    changes = [(one - x).square().mean().sqrt().item() for one in noisy]
    assert changes[0] == 0
    assert 0 < changes[1] < changes[2] < changes[3]
    kept = [mean_ssim(x[:, 0].numpy(), one[:, 0].numpy()) for one in noisy]
    # Of two slices alone severity 3 may by chance be milder than 1, in which lines are sampled and what moves.
    assert 1 == kept[0] > kept[1] > kept[3]
    assert torch.equal(_noisy(name, 3, x), noisy[2])
    assert noisy[1].shape == x.shape and noisy[1].dtype == torch.float32


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_a_slice_has_noise_of_its_own_whatever_is_beside_it(name: str) -> None:
    if name in NEED_TORCHIO and not has_torchio():
        pytest.skip("needs TorchIO, an optional extra")
    x = _images(3, 32)
    together = _noisy(name, 3, x)
    alone = corruption(name)(TARGET, x[1:2], x[1:2], 3, ["1"])
    assert torch.equal(together[1:2], alone)
    assert torch.equal(together[0], together[1]) == (name in ("blur", "low-resolution", "bias-field"))


@pytest.mark.parametrize("name", CORRUPTION_NAMES)
def test_a_volume_is_changed_plane_by_plane(name: str) -> None:
    if name in NEED_TORCHIO and not has_torchio():
        pytest.skip("needs TorchIO, an optional extra")
    planes = _images(1, 32)
    volume = torch.stack([planes, 0.9 * planes], 2)
    noisy, first = (corruption(name)(TARGET, x, x, 3, ["0"]) for x in (volume, planes))
    assert noisy.shape == volume.shape and torch.equal(noisy[:, :, 0], first)
    assert not torch.equal(noisy[:, :, 1], volume[:, :, 1])


def test_white_and_gaussian_noise_have_the_amplitude_they_say() -> None:
    x = torch.zeros(1, 1, 200, 200)
    white, gaussian = _noisy("white", 3, x), _noisy("gaussian", 3, x)
    assert white.abs().max() <= 0.4 and white.std().item() == pytest.approx(0.4 / 3**0.5, rel=0.02)
    assert gaussian.std().item() == pytest.approx(0.2, rel=0.02)


def test_poisson_noise_grows_with_the_root_of_the_signal() -> None:
    """100 photons at the brightest pixel: variance = signal / 100 there, a quarter of that at a quarter of it."""
    x = torch.cat([torch.full((1, 1, 200, 200), value) for value in (0.0, 0.25, 1.0)], 3)
    parts = torch.split(_noisy("poisson", 3, x), 200, 3)
    assert parts[0].std() == 0
    assert parts[1].std().item() == pytest.approx((0.25 / 100) ** 0.5, rel=0.03)
    assert parts[2].std().item() == pytest.approx((1 / 100) ** 0.5, rel=0.03)


def test_rician_noise_lifts_what_is_dark() -> None:
    """Its mean where there is no signal is sigma * sqrt(pi / 2) (Rayleigh); far above it, it is Gaussian."""
    x = torch.cat([torch.zeros(1, 1, 200, 200), torch.full((1, 1, 200, 200), 50.0)], 3)
    dark, bright = torch.split(_noisy("rician", 3, x), 200, 3)
    assert dark.mean().item() == pytest.approx(0.2 * (torch.pi / 2) ** 0.5, rel=0.02)
    assert bright.std().item() == pytest.approx(0.2, rel=0.02)


def test_all_means_all_that_is_installed() -> None:
    assert set(available()) == {name for name in CORRUPTIONS if has_torchio() or name not in NEED_TORCHIO}
    assert set(available()) - set(available(ct=False)) == {"low-dose"}


def test_usual_amounts_are_the_same_noise_as_ever() -> None:
    """The settings are the key of what was found before: they must not change."""
    assert corruption("blur").settings == {
        "amounts": [0.5, 0.75, 1.0, 1.5, 2.0],
        "meaning": "Gaussian blur, pixels",
        "seed": 0,
    }


def test_other_amounts_are_another_noise_and_may_be_few() -> None:
    noise = corruption("blur", 0, {2: 0.75, 5: 1.3})
    assert noise.settings["amounts"] == [0.75, 1.3] and noise.settings["severities"] == [2, 5]
    x = _images()
    assert torch.equal(noise(TARGET, x, x, 2, ["0", "1"]), _noisy("blur", 2))
