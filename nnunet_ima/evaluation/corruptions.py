"""Noise that scanners and reconstruction make, in five severities.

Slices are in normalised intensities (SD). What needs a zero of the intensity scale (Poisson, Rician, undersampling)
takes the least intensity of the slice, which is air in CT and MRI. Only `low-dose` knows HU, from nnU-Net's plans.
Bias field, ghosting, motion and spikes come from TorchIO (Perez-Garcia et al., 2021), if it is installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.evaluation.low_dose import low_dose
from nnunet_ima.evaluation.noises import Draws, Noise, Target
from nnunet_ima.evaluation.undersampling import undersampled

SEVERITIES = (1, 2, 3, 4, 5)
Corrupt = Callable[..., Tensor]
"""(image (C, H, W), amount, generator) -> image; one that is told HU takes `Target.ct` after these."""


@dataclass(frozen=True)
class Corruption:
    """amounts: at the severities 1 to 5; meaning: of an amount. search: from an amount that changes nothing, nearly, to
    the most that makes sense: between them lies what a severity of equal SSIM is looked for."""

    function: Corrupt
    amounts: tuple[float, ...]
    meaning: str
    search: tuple[float, float]
    needs_ct: bool = False
    needs_torchio: bool = False


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


def _of_torchio(
    make: Callable[[Any, Any], Any], amounts: tuple[float, ...], meaning: str, search: tuple[float, float]
) -> Corruption:
    return Corruption(partial(_torchio, make), amounts, meaning, search, needs_torchio=True)


CORRUPTIONS: dict[str, Corruption] = {
    "white": Corruption(_white, (0.1, 0.2, 0.4, 0.7, 1.0), "uniform white noise, +- SD", (0.001, 10.0)),
    "gaussian": Corruption(_gaussian, (0.05, 0.1, 0.2, 0.35, 0.5), "Gaussian noise, SD", (0.001, 10.0)),
    "poisson": Corruption(
        _poisson, (1000.0, 300.0, 100.0, 30.0, 10.0), "quantum noise, photons at the brightest pixel", (1e6, 1.0)
    ),
    "rician": Corruption(_rician, (0.05, 0.1, 0.2, 0.35, 0.5), "Rician noise, SD", (0.001, 2.0)),
    "blur": Corruption(_blur, (0.5, 0.75, 1.0, 1.5, 2.0), "Gaussian blur, pixels", (0.1, 5.0)),
    "low-resolution": Corruption(_low_resolution, (0.8, 0.65, 0.5, 0.35, 0.25), "share of the resolution", (1.0, 0.05)),
    "bias-field": _of_torchio(_bias, (0.1, 0.2, 0.3, 0.4, 0.5), "bias field, TorchIO's coefficients", (0.001, 1.5)),
    "ghosting": _of_torchio(_ghosting, (0.2, 0.4, 0.6, 0.8, 1.0), "ghosting, TorchIO's intensity", (0.01, 3.0)),
    "motion": _of_torchio(_motion, (1.0, 2.0, 4.0, 6.0, 8.0), "motion, degrees and pixels", (0.01, 40.0)),
    "spike": _of_torchio(_spike, (0.5, 1.0, 2.0, 3.0, 5.0), "a spike in k-space, TorchIO's intensity", (0.01, 50.0)),
    "undersampling": Corruption(
        undersampled, (1.5, 2.0, 3.0, 4.0, 6.0), "MRI from too few lines of k-space, acceleration", (1.0, 30.0)
    ),
    "low-dose": Corruption(
        low_dose, (2e6, 1e6, 5e5, 2e5, 1e5), "CT at a low dose, photons per ray", (1e10, 10.0), needs_ct=True
    ),
}
NEED_TORCHIO = tuple(name for name, kind in CORRUPTIONS.items() if kind.needs_torchio)
NEED_CT = tuple(name for name, kind in CORRUPTIONS.items() if kind.needs_ct)


def has_torchio() -> bool:
    return find_spec("torchio") is not None


def available(ct: bool = True) -> list[str]:
    """The corruptions that can be made with what is installed. ct: of images in HU."""
    return [
        name
        for name, kind in CORRUPTIONS.items()
        if (has_torchio() or not kind.needs_torchio) and (ct or not kind.needs_ct)
    ]


def corruption(name: str, seed: int = 0, amounts: Mapping[int, float] | None = None) -> Noise:
    """The corruption of this name; its levels are 0 (none) and the severities, 1 to 5. KeyError for another name.

    amounts: by severity, in place of the usual ones; some may be missing.
    """
    kind = CORRUPTIONS[name]
    usual = dict(zip(SEVERITIES, kind.amounts, strict=True))
    made = usual if amounts is None else dict(amounts)
    settings = {"amounts": list(made.values()), "meaning": kind.meaning, "seed": seed}
    if amounts is not None:
        settings["severities"] = list(made)
    return Noise(name, "corruption", partial(_corrupted, kind, made), settings)


def _corrupted(
    kind: Corruption, amounts: Mapping[int, float], target: Target, x: Tensor, y: Tensor, level: float, draws: Draws
) -> Tensor:
    if level == 0:
        return x
    amount = amounts[int(level)]
    told = (target.ct,) if kind.needs_ct else ()

    def made(image: Tensor, draw: torch.Generator) -> Tensor:
        if image.ndim == 3:
            return kind.function(image, amount, draw, *told)
        # A volume plane by plane, as scanners and reconstruction mostly work.
        return torch.stack([kind.function(plane, amount, draw, *told) for plane in image.unbind(1)], 1)

    return torch.stack([made(image, draw) for image, draw in zip(x.cpu(), draws, strict=True)]).to(x)
