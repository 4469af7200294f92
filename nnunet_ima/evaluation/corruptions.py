"""Noise that scanners and reconstruction make, in five severities.

Slices are in normalised intensities (SD), so that a severity means the same for all data sets. What needs a zero of
the intensity scale (Poisson, Rician) takes the least intensity of the slice, which is air in CT and MRI.
Bias field, ghosting, motion and spikes come from TorchIO (Perez-Garcia et al., 2021), if it is installed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.noises import Draws, Noise, Target

SEVERITIES = (1, 2, 3, 4, 5)
Corrupt = Callable[[Tensor, float, torch.Generator], Tensor]


def _white(image: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    """Uniform white noise (IMA paper, App. A), +-amplitude."""
    return image + amplitude * (2 * torch.rand(image.shape, generator=generator) - 1)


def _gaussian(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return image + sigma * torch.randn(image.shape, generator=generator)


def _poisson(image: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Quantum noise: counts of `photons` at the brightest pixel of each channel."""
    floor = image.amin((1, 2), keepdim=True)
    signal = image - floor
    scale = photons / signal.amax((1, 2), keepdim=True).clamp_min(1e-6)
    return torch.poisson(signal * scale, generator=generator) / scale + floor


def _rician(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """The magnitude of a signal with Gaussian noise in its real and its imaginary part, as in MRI."""
    floor = image.amin((1, 2), keepdim=True)
    real, imaginary = (sigma * torch.randn(image.shape, generator=generator) for _ in range(2))
    return torch.hypot(image - floor + real, imaginary) + floor


def _blur(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur of `sigma` pixels."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import blur_dimension

    for dimension in (0, 1):
        image = blur_dimension(image, sigma, dimension, force_use_fft=False)
    return image


def _low_resolution(image: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Sampled at `scale` of its resolution, and interpolated back, as nnU-Net's augmentation does it."""
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    transform = SimulateLowResolutionTransform((scale, scale), True, True, ())
    with torch.random.fork_rng(devices=[]):
        return torch.as_tensor(transform(image=image.clone())["image"])


def _torchio(make: Callable[[Any, Any], Any], image: Tensor, amount: Any, generator: torch.Generator) -> Tensor:
    """One of TorchIO's random transforms on a slice, which is a volume of depth one."""
    import torchio

    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = make(torchio, amount)(image.unsqueeze(-1))
    return torch.as_tensor(changed).squeeze(-1).float()


def _bias(torchio: Any, coefficient: float) -> Any:
    return torchio.RandomBiasField(coefficients=(coefficient, coefficient))


def _ghosting(torchio: Any, intensity: float) -> Any:
    return torchio.RandomGhosting(num_ghosts=4, axes=(0, 1), intensity=(intensity, intensity))


def _motion(torchio: Any, amount: float) -> Any:
    return torchio.RandomMotion(degrees=(-amount, amount), translation=(-amount, amount), num_transforms=2)


def _spike(torchio: Any, intensity: float) -> Any:
    return torchio.RandomSpike(num_spikes=1, intensity=(intensity, intensity))


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...], str]] = {
    "white": (_white, (0.1, 0.2, 0.4, 0.7, 1.0), "uniform white noise, +- SD"),
    "gaussian": (_gaussian, (0.05, 0.1, 0.2, 0.35, 0.5), "Gaussian noise, SD"),
    "poisson": (_poisson, (1000.0, 300.0, 100.0, 30.0, 10.0), "quantum noise, photons at the brightest pixel"),
    "rician": (_rician, (0.05, 0.1, 0.2, 0.35, 0.5), "Rician noise, SD"),
    "blur": (_blur, (0.5, 0.75, 1.0, 1.5, 2.0), "Gaussian blur, pixels"),
    "low-resolution": (_low_resolution, (0.8, 0.65, 0.5, 0.35, 0.25), "share of the resolution"),
    "bias-field": (partial(_torchio, _bias), (0.1, 0.2, 0.3, 0.4, 0.5), "bias field, TorchIO's coefficients"),
    "ghosting": (partial(_torchio, _ghosting), (0.2, 0.4, 0.6, 0.8, 1.0), "ghosting, TorchIO's intensity"),
    "motion": (partial(_torchio, _motion), (1.0, 2.0, 4.0, 6.0, 8.0), "motion, degrees and pixels"),
    "spike": (partial(_torchio, _spike), (0.5, 1.0, 2.0, 3.0, 5.0), "a spike in k-space, TorchIO's intensity"),
}
"""Per name: the function, its amount at the severities 1 to 5, and the amount's meaning."""
NEED_TORCHIO = ("bias-field", "ghosting", "motion", "spike")


def has_torchio() -> bool:
    return find_spec("torchio") is not None


def available() -> list[str]:
    """The corruptions that can be made with what is installed."""
    return [name for name in CORRUPTIONS if has_torchio() or name not in NEED_TORCHIO]


def chosen_corruptions(names: Sequence[str]) -> tuple[str, ...]:
    """These; of `all` those that can be made. UserError for one that needs what is not installed."""
    if tuple(names) == ("all",):
        return tuple(available())
    missing = [name for name in names if name not in available()]
    if missing:
        raise UserError(
            f"--corruptions {','.join(missing)}: {', '.join(NEED_TORCHIO)} need TorchIO; install it with pip install "
            "'nnunet-ima[corruptions]'."
        )
    return tuple(names)


def corruption(name: str, seed: int = 0) -> Noise:
    """The corruption of this name; its levels are the severities 0 (none) to 5. KeyError for another name."""
    function, amounts, meaning = CORRUPTIONS[name]
    settings = {"amounts": list(amounts), "meaning": meaning, "seed": seed}
    return Noise(name, "corruption", partial(_corrupted, function, amounts), settings)


def _corrupted(
    function: Corrupt, amounts: tuple[float, ...], target: Target, x: Tensor, y: Tensor, level: float, draws: Draws
) -> Tensor:
    if level == 0:
        return x
    amount = amounts[int(level) - 1]
    return torch.stack([function(image, amount, draw) for image, draw in zip(x.cpu(), draws, strict=True)]).to(x)
