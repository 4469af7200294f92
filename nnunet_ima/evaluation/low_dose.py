"""CT at a low dose: the noise of few photons, as it comes out of the reconstruction.

HU become attenuation, its line integrals photon counts (Poisson), and the error of their logarithm goes through
filtered back projection. Only the noise does: the slice itself stays as sharp as it is. The model of the counts is that
of LoDoPaB-CT (Leuschner et al., Scientific Data 2021).
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import downscale_local_mean, iradon, radon
from torch import Tensor

from nnunet_ima.segmentation.cases.intensities import CTScale

Array = NDArray[np.float64]

WATER = 0.02
"""Attenuation of water per mm."""
SCANNER_VIEWS = 1000
"""Of one rotation of a scanner: what a dose refers to."""
VIEWS = 180
"""Of the reconstruction; each stands for several views of the scanner."""
COARSE = 128
"""Line integrals hardly change from ray to ray: pixels along a side of the slice that they are taken from."""
FEWEST = 0.1
"""Photons that count where none arrives (LoDoPaB-CT)."""
AIR = -1000.0


def low_dose(image: Tensor, photons: float, generator: torch.Generator, scales: Mapping[int, CTScale]) -> Tensor:
    """image (C, H, W), normalised, as if `photons` were sent along each ray of `SCANNER_VIEWS` views, rays a pixel
    apart. scales: of the channels that are CT, by their number; the others stay as they are."""
    noisy = image.clone()
    for channel, scale in scales.items():
        hounsfield = _hounsfield(image[channel].double().numpy(), scale)
        noise = hounsfield_noise(hounsfield, photons, scale.pixel, generator)
        # The scanner's noise comes first, then nnU-Net clips.
        change = np.clip(hounsfield + noise, scale.low, scale.high) - np.clip(hounsfield, scale.low, scale.high)
        noisy[channel] += torch.from_numpy(change / scale.sd).to(image.dtype)
    return noisy


def _hounsfield(image: Array, scale: CTScale) -> Array:
    """HU of a slice (H, W). nnU-Net has clipped them: what is at the lower end and reaches the border counts as air."""
    found = image * scale.sd + scale.mean
    lowest = found <= scale.low + 1
    border = np.ones_like(lowest)
    border[1:-1, 1:-1] = False
    air: NDArray[np.bool_] = ndimage.binary_propagation(lowest & border, mask=lowest)
    return np.where(air, np.minimum(found, AIR), found)


def hounsfield_noise(hounsfield: Array, photons: float, pixel: float, generator: torch.Generator) -> Array:
    """The noise in HU, (H, W), on a slice (H, W) of HU. pixel: its side in mm."""
    size, angles = max(hounsfield.shape), np.arange(VIEWS) * 180 / VIEWS
    integrals = _line_integrals(WATER * np.maximum(1 + hounsfield / 1000, 0), angles, size) * pixel
    sent = photons * SCANNER_VIEWS / VIEWS
    counts = torch.poisson(torch.from_numpy(sent * np.exp(-integrals)), generator=generator).numpy()
    errors = -np.log(np.maximum(counts, FEWEST) / sent) - integrals
    whole = iradon(errors / pixel, angles, output_size=size, circle=False)
    top, left = ((size - side) // 2 for side in hounsfield.shape)
    noise: Array = whole[top : top + hounsfield.shape[0], left : left + hounsfield.shape[1]] * 1000 / WATER
    return noise


def _line_integrals(attenuation: Array, angles: Array, size: int) -> Array:
    """(rays, angles) of a slice (H, W) with `size` pixels along its longer side, in pixels: a ray per pixel of the
    diagonal."""
    factor = max(1, size // COARSE)
    coarse = factor * radon(downscale_local_mean(attenuation, factor), angles, circle=False)
    rays = int(np.ceil(np.sqrt(2) * size))
    at = (np.arange(rays) - rays // 2) / factor + len(coarse) // 2
    return np.stack([np.interp(at, np.arange(len(coarse)), view) for view in coarse.T], 1)
