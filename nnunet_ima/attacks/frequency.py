"""Auto-PGD whose noise lies in a band of frequencies (the idea of VAFA: Hanif et al., MICCAI 2023).

Scanners and reconstruction filter: noise that they let pass is not just any noise. VAFA changes the quantisation of
blocks of DCT coefficients; here the noise is an L2 ball within the band of the DCT of the whole image, so that its
levels are those of the other attacks.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.apgd import apgd
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.threat import Common, Threat

Band = tuple[float, float]


def frequency(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    band: Band = (0.0, 0.25),
    steps: int = 100,
    random_start: bool = True,
    **common: Unpack[Common],
) -> Tensor:
    """The worst point x + noise that Auto-PGD meets, the noise without any frequency outside of `band`; shape of `x`.

    x: (N, C, ...), all dimensions after C are space. band: (low, high), shares of the Nyquist frequency, see `in_band`.
    The other arguments are those of `apgd`. Auto-PGD walks among the coefficients of the orthonormal DCT, where the L2
    norm of the noise is what it is among pixels.

    Raises ValueError as `apgd` does, for `x` without space, an empty band, and what no band allows: the L-infinity norm
    and bounds.
    """
    threat = Threat.of(**common)
    if threat.norm != "l2" or threat.bounds is not None:
        raise ValueError("frequency knows the L2 norm without bounds only: clipping pixels leaves the band.")
    if x.ndim < 3:
        raise ValueError(f"x must have dimensions of space, (N, C, ...), got {tuple(x.shape)}.")
    x = x.detach()
    inside = in_band(x.shape[2:], band, x.device)
    if not inside.any():
        raise ValueError(f"band {band} holds no frequency of an image of {tuple(x.shape[2:])}.")
    origin = dct(x)

    def of_coefficients(z: Tensor) -> Tensor:
        # What lies outside of the band gets no gradient, so that no step leaves it.
        return model(inverse_dct(torch.where(inside, z, z.detach())))

    start = _start(origin, inside, epsilon, threat) if random_start else torch.zeros_like(x)
    with frozen(model):
        found = apgd(of_coefficients, origin, y, epsilon, steps=steps, start=start, **common)
    # The transform there and back of `x` itself would cost digits.
    return x + inverse_dct(found - origin)


def in_band(shape: Sequence[int], band: Band, device: torch.device | None = None) -> Tensor:
    """Which DCT coefficients of an image of this shape lie in the band, bool of that shape.

    Coefficient k of an axis of n pixels has the frequency k / n in shares of Nyquist, 0 the mean; a coefficient has the
    largest frequency of its axes. low <= frequency < high: neighbouring bands share nothing, (0, 1) is everything.
    """
    axes = [torch.arange(size, device=device) / size for size in shape]
    largest = torch.stack(torch.meshgrid(*axes, indexing="ij")).amax(0)
    return (largest >= band[0]) & (largest < band[1])


def dct(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of each channel of `x` (N, C, ...), same shape, float32 or better."""
    return _transformed(x, inverse=False)


def inverse_dct(z: Tensor) -> Tensor:
    """What `dct` was made of."""
    return _transformed(z, inverse=True)


def _transformed(x: Tensor, inverse: bool) -> Tensor:
    # bfloat16 would round the image itself.
    with torch.autocast(x.device.type, enabled=False):
        for axis in range(2, x.ndim):
            matrix = _matrix(x.shape[axis], x)
            x = (x.movedim(axis, -1) @ (matrix if inverse else matrix.T)).movedim(-1, axis)
    return x


def _matrix(size: int, like: Tensor) -> Tensor:
    """Orthonormal DCT-II, (size, size): row k is sqrt(2 / n) cos(pi k (2 i + 1) / (2 n)), row 0 over sqrt(2)."""
    number = torch.arange(size, device=like.device)
    # Whole turns are taken off while the phase is a whole number: float32 would round large ones.
    phase = (number[:, None] * (2 * number + 1)) % (4 * size)
    matrix = torch.cos(math.pi / (2 * size) * phase.to(like.dtype)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _start(origin: Tensor, inside: Tensor, epsilon: float | Tensor, threat: Threat) -> Tensor:
    """Noise uniform in the volume of the ball of the band's coefficients, shape of `origin`."""
    coefficients = origin[..., inside]
    start = torch.zeros_like(origin)
    start[..., inside] = threat.start(coefficients, ball.per_sample(epsilon, origin, "epsilon"), random=True)
    return start
