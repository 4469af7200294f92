"""Square Attack with one noise level per sample: random search without gradients (Andriushchenko et al., ECCV 2020).

The paper attacks images; in volumes cubes take the place of its squares. Comments speak of images.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from typing_extensions import Unpack

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.threat import Common, Threat
from nnunet_ima.attacks.worst import Worst, scores, still_rising

SHARE = 0.8
"""Share of the pixels that the first squares cover; the paper's default."""


def square(
    model: Model, x: Tensor, y: Tensor, epsilon: float | Tensor, *, steps: int = 1000, **common: Unpack[Common]
) -> Tensor:
    """The worst point that random search with squares finds within `steps` forwards, per sample.

    Arguments and result as for `pgd`; `x` must be images (N, C, H, W) or volumes (N, C, Z, H, W). A candidate is kept
    where it is worse than all before it (badness, then loss), so that only the model's outputs are asked for, never a
    gradient.

    common: objective, norm, bounds and generator, see `Common`.
    """
    threat = Threat.of(**common)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if x.ndim not in (4, 5):
        raise ValueError(f"x must be images (N, C, H, W) or volumes (N, C, Z, H, W), got the shape {tuple(x.shape)}.")
    x = x.detach()
    radius = ball.per_sample(epsilon, x, "epsilon")
    draws = ball.generators(x, threat.generator)
    search: type[_Search] = _L2 if threat.norm == "l2" else _Linf
    worst = Worst(x)
    active = torch.nonzero(radius > 0).squeeze(1)
    with frozen(model), torch.no_grad():
        for step in range(steps):
            if len(active) == 0:
                break
            side = _side(step / steps, x.shape)
            # Drawn on the host, for all samples, in one transfer: the device works through it without a wait.
            drawn = torch.tensor([search.draw(x.shape[1:], side, step == 0, draw) for draw in draws])
            numbers = drawn.to(x.device, non_blocking=True)[active]
            proposal = search(worst.point[active] - x[active], radius[active], side, numbers)
            delta = proposal.begun() if step == 0 else proposal.moved()
            point = threat.inside(x[active], delta, radius[active])
            worst.update(active, point, scores(threat.objective, model(point), y[active]))
            active = active[still_rising(worst.score[active], threat.objective)]
    return torch.where(ball.broadcast(radius > 0, x), worst.point, x)


def _side(progress: float, shape: torch.Size) -> int:
    """Side of the squares: their area is halved at the paper's nine points of the search (Sec. 3.1)."""
    passed = sum(progress > at for at in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
    sides = shape[2:]
    side = round((SHARE / 2**passed * math.prod(sides)) ** (1 / len(sides)))
    return int(min([max(side, 1), *sides]))


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(max(below, 1), (), generator=generator, device=generator.device))


def _signs(count: int, generator: torch.Generator) -> list[int]:
    return [2 * bit - 1 for bit in torch.randint(2, (count,), generator=generator, device=generator.device).tolist()]


def _corner(shape: torch.Size, side: int, generator: torch.Generator) -> list[int]:
    return [_integer(length - side + 1, generator) for length in shape[1:]]


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(N, C) with spatial axes of length 1, as many as `like` has."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


@dataclass
class _Search:
    """The next candidates of a batch. delta: (N, C, H, W), the best noise so far; epsilon: (N,); side: of the squares;
    numbers: (N, k), what `draw` drew for each sample."""

    delta: Tensor
    epsilon: Tensor
    side: int
    numbers: Tensor

    @staticmethod
    def draw(shape: torch.Size, side: int, at_start: bool, generator: torch.Generator) -> list[int]:
        """The random numbers of one sample (C, H, W), whole and as many for each sample."""
        raise NotImplementedError

    def begun(self) -> Tensor:
        """The first candidates, (N, C, H, W)."""
        raise NotImplementedError

    def moved(self) -> Tensor:
        """The next ones."""
        raise NotImplementedError

    def _window(self, corner: Tensor, side: int) -> tuple[Tensor, ...]:
        """Index of a square of each sample and all its channels; corner: (N, 2), top and left."""
        count, channels = self.delta.shape[:2]
        reach = torch.arange(side, device=corner.device)
        samples = torch.arange(count, device=corner.device)[:, None]
        every = torch.arange(channels, device=corner.device)[None]
        axes = corner.shape[1]
        within = [
            (start[:, None] + reach).view(count, 1, *[1] * axis, side, *[1] * (axes - 1 - axis))
            for axis, start in enumerate(corner.unbind(1))
        ]
        return _spread(samples, self.delta), _spread(every, self.delta), *within


class _Linf(_Search):
    @staticmethod
    def draw(shape: torch.Size, side: int, at_start: bool, generator: torch.Generator) -> list[int]:
        if at_start:
            return _signs(shape[0] * shape[-1], generator)
        return [*_corner(shape, side, generator), *_signs(shape[0], generator)]

    def begun(self) -> Tensor:
        """Vertical stripes of +-epsilon, one pixel wide."""
        count, channels, *others, width = self.delta.shape
        stripes = self.numbers.to(self.delta).view(count, channels, *[1] * len(others), width)
        return ball.broadcast(self.epsilon, self.delta) * stripes.expand_as(self.delta)

    def moved(self) -> Tensor:
        """One square set to +-epsilon, a sign per channel."""
        new = self.delta.clone()
        axes = new.ndim - 2
        corner, signs = self.numbers[:, :axes], self.numbers[:, axes:].to(new)
        new[self._window(corner, self.side)] = _spread(self.epsilon[:, None] * signs, new)
        return new


class _L2(_Search):
    @staticmethod
    def draw(shape: torch.Size, side: int, at_start: bool, generator: torch.Generator) -> list[int]:
        if at_start:
            bumps, axes = len(_grid(shape)), len(shape) - 1
            return [
                number for _ in range(bumps) for number in (*_signs(shape[0], generator), _integer(axes, generator))
            ]
        side = _l2_side(shape, side)
        corners = [*_corner(shape, side, generator), *_corner(shape, side, generator)]
        return [*corners, *_signs(shape[0], generator), _integer(len(shape) - 1, generator)]

    def begun(self) -> Tensor:
        """A grid of five by five bumps of random signs, scaled to the noise level."""
        new = torch.zeros_like(self.delta)
        shape = new.shape[1:]
        side = _grid_side(shape)
        drawn = self.numbers.view(len(new), -1, shape[0] + 1)
        for number, corner in enumerate(_grid(shape)):
            signs, lying = drawn[:, number, :-1].to(new), drawn[:, number, -1]
            everywhere = slice(None)
            window = (everywhere, everywhere, *(slice(start, start + side) for start in corner))
            new[window] = _spread(signs, new) * _bumps(lying, side, new)
        return new * ball.broadcast(self.epsilon / ball.size(new, "l2").clamp_min(1e-12), new)

    def moved(self) -> Tensor:
        """The noise within one window, and all that the budget still allows, moved into a bump in another (Alg. 3)."""
        delta, channels = self.delta, self.delta.shape[1]
        spatial = tuple(range(2, delta.ndim))
        axes, side = len(spatial), _l2_side(delta.shape[1:], self.side)
        into, out = (self._window(self.numbers[:, at : at + axes], side) for at in (0, axes))
        emptied = delta.clone()
        emptied[into], emptied[out] = 0.0, 0.0
        # What both windows held, and what was unused, is free to spend.
        unused = (self.epsilon.square() - delta.square().flatten(1).sum(1)).clamp_min(0)[:, None] / channels
        freed = delta.square().sum(spatial) - emptied.square().sum(spatial)
        signs, lying = self.numbers[:, 2 * axes : -1].to(delta), self.numbers[:, -1]
        bump = _unit(delta[into]) + _spread(signs, delta) * _bumps(lying, side, delta)
        emptied[into] = _unit(bump) * _spread((freed.clamp_min(0) + unused).sqrt(), delta)
        return emptied


def _unit(windows: Tensor) -> Tensor:
    """Each channel (N, C, side, side) with the norm 1, or 0 where it is 0."""
    lengths: Tensor = windows.flatten(2).norm(dim=2).clamp_min(1e-12)
    return windows / _spread(lengths, windows)


def _l2_side(shape: torch.Size, side: int) -> int:
    return int(min([max(side, 3), *shape[1:]]))


def _grid_side(shape: torch.Size) -> int:
    return max(1, min(shape[1:]) // 5)


def _grid(shape: torch.Size) -> list[tuple[int, ...]]:
    """Corners (top, left) of the bumps that the search begins with."""
    side = _grid_side(shape)
    return list(product(*(range(0, length - side + 1, side) for length in shape[1:])))


def _bumps(lying: Tensor, side: int, like: Tensor) -> Tensor:
    """(N, 1, side, side), L2 norm 1: two pyramids of opposite sign side by side along the axis that is told, (N,) 0 or
    1."""
    half, axes = side // 2, like.ndim - 2
    rest = [side] * (axes - 1)
    pattern = torch.zeros(side, *rest)
    if half:
        pattern[:half] = _pyramid(half, *rest)
    pattern[half:] = -_pyramid(side - half, *rest)
    every = torch.stack([pattern.movedim(0, axis) for axis in range(axes)])
    every = (every / ball.broadcast(ball.size(every, "l2"), every)).to(like.device, non_blocking=True)
    return every[lying][:, None]


def _pyramid(*sides: int) -> Tensor:
    """Rings around the centre; ring number k adds 1 / (k + 1)^2 to everything inside of it."""
    offsets = torch.meshgrid(*((torch.arange(side) - side // 2).abs() for side in sides), indexing="ij")
    ring = torch.stack(offsets).amax(0)
    steps = 1.0 / torch.arange(1, max(sides) + 1).square()
    # A pixel at ring r lies inside the rings r, r + 1, ..., the last.
    total: Tensor = steps.flip(0).cumsum(0).flip(0)
    return total[ring]
