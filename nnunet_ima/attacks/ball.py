"""Lp balls with one radius per sample. Norms are taken over all dimensions of a sample (C x H x W), in float32."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = ("l2", "linf")
Generators = torch.Generator | Sequence[torch.Generator] | None


def check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}.")


def per_sample(value: float | Tensor, x: Tensor, name: str) -> Tensor:
    """One non-negative float32 number per sample of `x`, shape (N,), from a number or a tensor of shape (N,)."""
    # Looked at where they are: for numbers of the host it does not wait for the device.
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.ndim == 0:
        numbers = numbers.expand(len(x))
    if numbers.shape != (len(x),):
        raise ValueError(f"{name} must be a number or one per sample ({len(x)}), got shape {tuple(numbers.shape)}.")
    if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative, got {numbers.min().item()}..{numbers.max().item()}.")
    return numbers.to(x.device, non_blocking=True)


def broadcast(numbers: Tensor, x: Tensor) -> Tensor:
    """Shape (N,) -> (N, 1, ..., 1), to multiply with a batch of images."""
    return numbers.view(-1, *[1] * (x.ndim - 1))


def size(delta: Tensor, norm: Norm) -> Tensor:
    """The norm of each sample of `delta`, shape (N, ...) -> (N,), float32."""
    flat = delta.float().flatten(1)
    length: Tensor = torch.linalg.vector_norm(flat, ord=2 if norm == "l2" else float("inf"), dim=1)
    return length


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step of steepest ascent per sample: g/|g|_2 for L2, sign(g) for Linf.

    A zero or non-finite gradient gives a zero step: such a sample stays where it is and never becomes NaN.
    """
    gradient = gradient.float()
    length = size(gradient, "linf")
    usable = torch.isfinite(length) & (length > 0)
    # Scaled by its largest entry first: squares of very small gradients would underflow to a zero norm.
    scaled = gradient / broadcast(torch.where(usable, length, torch.ones_like(length)), gradient)
    unit = scaled.sign() if norm == "linf" else scaled / broadcast(size(scaled, "l2").clamp_min(1e-12), scaled)
    return torch.where(broadcast(usable, unit), unit, torch.zeros_like(unit))


def project(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """`delta` (N, ...) pulled back into the ball of `radius` (N,) around 0; points inside are left as they are."""
    limit = broadcast(radius, delta)
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, limit), -limit)
    length = broadcast(size(delta, norm), delta)
    return torch.where(length > limit, delta * (limit / length.clamp_min(1e-30)), delta)


def generators(x: Tensor, generator: Generators) -> list[torch.Generator]:
    """One generator per sample of `x`; from one (or torch's own for None) they take turns."""
    if not isinstance(generator, Sequence):
        return [generator or torch.default_generator] * len(x)
    if len(generator) != len(x):
        raise ValueError(f"generator must be one or one per sample ({len(x)}), got {len(generator)}.")
    return list(generator)


def _noise(x: Tensor, generator: Generators, gaussian: bool) -> Tensor:
    draw = torch.randn if gaussian else torch.rand
    if isinstance(generator, Sequence):
        generator = generators(x, generator)
        drawn = torch.stack([draw(x.shape[1:], generator=g, device=g.device) for g in generator])
        return drawn.to(x.device, non_blocking=True)
    return draw(x.shape, generator=generator, device=generator.device if generator else x.device).to(x.device)


def random_direction(x: Tensor, generator: Generators = None, norm: Norm = "l2") -> Tensor:
    """White noise of norm 1 per sample, shape of `x` (Linf: random signs); generator as for `random_point`."""
    return direction(_noise(x, generator, gaussian=True), norm)


def random_point(x: Tensor, radius: Tensor, norm: Norm, generator: Generators = None) -> Tensor:
    """A random perturbation per sample, uniform in the volume of the ball of `radius` (N,); shape of `x`.

    generator: one for the batch, or one per sample, so that a sample's draw does not depend on its batch mates.
    """
    if norm == "linf":
        return (2 * _noise(x, generator, gaussian=False) - 1) * broadcast(radius, x)
    ball_direction = random_direction(x, generator)
    # In d dimensions the volume within r grows like r^d, so a uniform number u lies at radius u^(1/d).
    u = _noise(x.flatten(1)[:, :1], generator, gaussian=False).squeeze(1)
    return ball_direction * broadcast(radius * u ** (1 / x[0].numel()), x)


def stretched(delta: Tensor, radius: float | Tensor, norm: Norm, generator: Generators = None) -> Tensor:
    """Each perturbation of `delta` (N, ...) made as long as its `radius`, one number or one per sample (N,); a random
    point of the ball in place of one that is 0. generator as for `random_point`."""
    length, radii = size(delta, norm), per_sample(radius, delta, "radius")
    scaled = delta * broadcast(radii / length.clamp_min(1e-30), delta)
    return torch.where(broadcast(length > 0, delta), scaled, random_point(delta, radii, norm, generator))


def step_inside(x: Tensor, delta: Tensor, radius: Tensor, norm: Norm, bounds: tuple[float, float] | None) -> Tensor:
    """x + delta, first pulled into the ball around `x`, then clipped to `bounds` (which can only shrink the norm
    if `x` itself lies within them)."""
    point = x + project(delta, radius, norm)
    return point if bounds is None else point.clamp(*bounds)
