"""MRI from too few lines of k-space: what an accelerated scan leaves of a slice.

Lines of one direction (Cartesian phase encoding) are left out at random, more of them far from the centre (variable
density: Lustig, Donoho and Pauly, Magnetic Resonance in Medicine 2007). The centre is sampled fully, as wide as in
fastMRI (Zbontar et al., arXiv:1811.08839: 8 % of the lines at acceleration 4, 4 % at 8). What is missing is 0, and the
image is the magnitude.
"""

import torch
from torch import Tensor

CENTRE = 0.32
"""Share of the lines that is the fully sampled centre, times the acceleration."""


def undersampled(image: Tensor, acceleration: float, generator: torch.Generator) -> Tensor:
    """image (C, H, W) at 1 / `acceleration` (1 or more) of its lines; all channels get the same ones.

    The signal is what lies above the least intensity of each channel, which is air. Rows or columns are left out, as
    `generator` has it.
    """
    axis = int(torch.randint(2, (), generator=generator))
    kept = sampled_lines(image.shape[1 + axis], acceleration, generator)
    floor = image.amin((1, 2), keepdim=True)
    return zero_filled(image - floor, kept, axis).abs() + floor


def sampled_lines(lines: int, acceleration: float, generator: torch.Generator) -> Tensor:
    """(lines,) bool, in the order of the discrete Fourier transform: lines / acceleration of them, rounded up or down
    at random so that the mean is exact. The same generator keeps fewer and fewer of the same lines."""
    number = max(1, int(lines / acceleration + torch.rand((), generator=generator).item()))
    distance = 2 * torch.fft.fftfreq(lines).abs()
    # The least keys are a weighted sample without replacement (Efraimidis and Spirakis, 2006).
    weight = (1 - distance).clamp_min(1 / lines).square()
    keys = torch.empty(lines).exponential_(generator=generator) / weight
    keys[distance < CENTRE / acceleration] = 0
    kept = torch.zeros(lines, dtype=torch.bool)
    kept[keys.argsort(stable=True)[:number]] = True
    return kept


def zero_filled(signal: Tensor, kept: Tensor, axis: int) -> Tensor:
    """(C, H, W), complex: the slices of which only these lines of k-space, along rows (0) or columns (1), are left."""
    mask = kept.reshape((-1, 1) if axis == 0 else (1, -1))
    image: Tensor = torch.fft.ifft2(torch.fft.fft2(signal) * mask)
    return image
