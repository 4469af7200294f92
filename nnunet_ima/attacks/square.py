"""Square Attack with one noise level per sample: random search without gradients (Andriushchenko et al., ECCV 2020)."""

import math

import torch
from torch import Tensor

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.ball import Generators, Norm
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.objective import CrossEntropy, Objective
from nnunet_ima.attacks.worst import Worst, scores

SHARE = 0.8
"""Share of the pixels that the first squares cover; the paper's default."""


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    objective: Objective | None = None,
    norm: Norm = "l2",
    steps: int = 1000,
    bounds: tuple[float, float] | None = None,
    generator: Generators = None,
) -> Tensor:
    """The worst point that random search with squares finds within `steps` forwards, per sample.

    Arguments and result as for `pgd`; `x` must be images (N, C, H, W). A candidate is kept where it is worse than all
    before it (badness, then loss), so that only the model's outputs are asked for, never a gradient.

    generator: one per sample keeps the search of a sample independent of its batch mates.
    """
    objective = objective or CrossEntropy()
    ball.check_norm(norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if x.ndim != 4:
        raise ValueError(f"x must be images of the shape (N, C, H, W), got {tuple(x.shape)}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    draws = ball.generators(x, generator)
    propose, begin = (_l2, _l2_start) if norm == "l2" else (_linf, _linf_start)
    worst = Worst(x)
    active = torch.nonzero(radius > 0).squeeze(1)
    with frozen(model), torch.no_grad():
        for step in range(steps):
            if len(active) == 0:
                break
            side = _side(step / steps, x.shape)
            candidates = []
            for row in active.tolist():
                eps, delta = float(radius[row]), worst.point[row] - x[row]
                new = begin(delta, eps, draws[row]) if step == 0 else propose(delta, eps, side, draws[row])
                candidates.append(new)
            delta = torch.stack(candidates).to(x)
            point = ball.step_inside(x[active], delta, radius[active], norm, bounds)
            worst.update(active, point, scores(objective, model(point), y[active]))
            active = active[worst.score[active, 0] < objective.worst]
    return torch.where(ball.broadcast(radius > 0, x), worst.point, x)


def _side(progress: float, shape: torch.Size) -> int:
    """Side of the squares: their area is halved at the paper's nine points of the search (Sec. 3.1)."""
    passed = sum(progress > at for at in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    height, width = shape[2:]
    side = round(math.sqrt(SHARE / 2**passed * height * width))
    return min(max(side, 1), height, width)


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(below, 1), (), generator=generator, device=generator.device))


def _signs(count: int, generator: torch.Generator, like: Tensor) -> Tensor:
    drawn = torch.randint(2, (count,), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like)


def _corner(delta: Tensor, side: int, generator: torch.Generator) -> tuple[slice, slice]:
    top = _integer(delta.shape[1] - side + 1, generator)
    left = _integer(delta.shape[2] - side + 1, generator)
    return slice(top, top + side), slice(left, left + side)


def _linf_start(delta: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Vertical stripes of +-epsilon, one pixel wide."""
    channels, height, width = delta.shape
    stripes = _signs(channels * width, generator, delta).view(channels, 1, width)
    return epsilon * stripes.expand(channels, height, width)


def _linf(delta: Tensor, epsilon: float, side: int, generator: torch.Generator) -> Tensor:
    """One square set to +-epsilon, a sign per channel."""
    new = delta.clone()
    rows, columns = _corner(delta, side, generator)
    new[:, rows, columns] = epsilon * _signs(len(delta), generator, delta).view(-1, 1, 1)
    return new


def _l2_start(delta: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """A grid of five by five bumps of random signs, scaled to the noise level."""
    new = torch.zeros_like(delta)
    side = max(1, min(delta.shape[1:]) // 5)
    for top in range(0, delta.shape[1] - side + 1, side):
        for left in range(0, delta.shape[2] - side + 1, side):
            signs = _signs(len(delta), generator, delta).view(-1, 1, 1)
            new[:, top : top + side, left : left + side] = signs * _bump(side, generator).to(delta)
    scaled: Tensor = new * (epsilon / ball.size(new[None], "l2").clamp_min(1e-12))
    return scaled


def _l2(delta: Tensor, epsilon: float, side: int, generator: torch.Generator) -> Tensor:
    """The noise within one window, and all that the budget still allows, moved into a bump in another (Alg. 3)."""
    channels = len(delta)
    side = min(max(side, 3), *delta.shape[1:])
    into, out = ((slice(None), *_corner(delta, side, generator)) for _ in range(2))
    emptied = delta.clone()
    emptied[into], emptied[out] = 0.0, 0.0
    # What both windows held, and what was unused, is free to spend.
    unused = max(epsilon**2 - float(delta.square().sum()), 0.0) / channels
    freed = delta.square().sum((1, 2)) - emptied.square().sum((1, 2))
    old = delta[into]
    old = old / old.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)
    bump = old + _signs(channels, generator, delta).view(-1, 1, 1) * _bump(side, generator).to(delta)
    bump = bump / bump.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1)
    emptied[into] = bump * (freed.clamp_min(0) + unused).sqrt().view(-1, 1, 1)
    return emptied


def _bump(side: int, generator: torch.Generator) -> Tensor:
    """(side, side), L2 norm 1: two pyramids of opposite sign side by side, upright or lying by chance."""
    half = side // 2
    pattern = torch.zeros(side, side)
    if half:
        pattern[:half] = _pyramid(half, side)
    pattern[half:] = -_pyramid(side - half, side)
    if _integer(2, generator):
        pattern = pattern.T
    return pattern / ball.size(pattern[None], "l2")


def _pyramid(height: int, width: int) -> Tensor:
    """Rings around the centre; ring number k adds 1 / (k + 1)^2 to everything inside of it."""
    rows = (torch.arange(height) - height // 2).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()[None]
    ring = torch.maximum(rows, columns)
    steps = 1.0 / torch.arange(1, max(height, width) + 1).square()
    # A pixel at ring r lies inside the rings r, r + 1, ..., the last.
    total: Tensor = steps.flip(0).cumsum(0).flip(0)
    return total[ring]
