"""Every kind of noise an evaluation knows, by name: attacks, random noise as their control, and corruptions."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nnunet_ima.attacks import apgd, ball, frequency, padam, pgd, spsa, square
from nnunet_ima.attacks.apgd import SCHEDULE, WITHIN
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.precision import autocast, native_bfloat16
from nnunet_ima.attacks.smallest import onto_boundary, smallest
from nnunet_ima.attacks.threat import Climbing, Common
from nnunet_ima.attacks.worst import Worst, scores
from nnunet_ima.segmentation.cases.intensities import CTScale
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import STRONG
from nnunet_ima.segmentation.objectives.one_structure import OneStructure
from nnunet_ima.segmentation.objectives.weighted import (
    CosineObjective,
    CosPGDObjective,
    SegPGDObjective,
    VanishObjective,
)

Family = Literal["attack", "control", "corruption"]


@dataclass(frozen=True)
class Target:
    """What is attacked: a network from slices to logits, and the labels its references have. surrogate: the network
    of another model, for transfer. ct: how the channels that are CT relate to HU, by their number."""

    network: Model
    labels: Any
    surrogate: Model | None = None
    ct: Mapping[int, CTScale] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU for one without parameters."""
        parameters = self.network.parameters() if isinstance(self.network, nn.Module) else iter(())
        return next((parameter.device for parameter in parameters), torch.device("cpu"))

    def objective(self, kind: type[SegmentationObjective] = SegmentationObjective) -> SegmentationObjective:
        return kind.of(self.labels)


@dataclass(frozen=True)
class Settings:
    """What attacks are told. Levels are in units of `norm`; every kind of attack reads what it has a use for.

    steps: of gradient attacks; strong_steps: of each member of the ensemble (SEA: 300); queries: forwards of Square;
    spsa_samples: forwards per estimate of SPSA (paper: 2048), spsa_steps: its steps; band: of `frequency`, (low, high)
    in shares of the Nyquist frequency; vanish: number of the foreground class that should vanish, from 0; restarts:
    random starts, of which the worst point counts; surrogate: digest of the model that noise is transferred from, for
    what another one finds is another noise.
    """

    norm: Norm = "l2"
    steps: int = 100
    alpha: float = 4.0
    restarts: int = 1
    strong_steps: int = 300
    queries: int = 1000
    spsa_samples: int = 2048
    spsa_steps: int = 20
    band: tuple[float, float] = (0.0, 0.25)
    vanish: int | None = None
    surrogate: str | None = None
    seed: int = 0


Draws = Sequence[torch.Generator]
Make = Callable[..., Tensor]


@dataclass(frozen=True)
class Noise:
    """A kind of noise. make: (target, x, y, level, one generator per slice) -> noisy slices, shape of `x`.

    settings: what makes it the same noise when it is made again. cost: forwards per slice and level, about. goes_on:
    whether `make` takes as its last argument the worst noise of a lower level, (N, C, H, W), to start from. nested:
    see `nested.nested`.
    """

    name: str
    family: Family
    make: Make
    settings: dict[str, Any] = field(default_factory=dict)
    cost: float = 1.0
    goes_on: bool = False
    nested: bool = False

    def __call__(
        self, target: Target, x: Tensor, y: Tensor, level: float, seeds: Sequence[str], below: Tensor | None = None
    ) -> Tensor:
        """seeds: one text per slice, from which its random numbers come: a slice's noise depends on it alone.
        below: the worst noise of a lower level, (N, C, H, W), to go on from."""
        draws = [torch.Generator().manual_seed(zlib.crc32(f"{seed} {level!r}".encode())) for seed in seeds]
        if below is not None and self.goes_on:
            return self.make(target, x, y, level, draws, below)
        return self.make(target, x, y, level, draws)


def told_per_pixel(noise: Noise) -> Noise:
    """The same noise with levels that are root mean squares per pixel (for Linf they are what they were)."""
    return replace(noise, make=partial(_per_pixel, noise), settings=noise.settings | {"level": "RMS per pixel"})


def _per_pixel(
    noise: Noise, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws, *below: Tensor
) -> Tensor:
    pixels = x[0].numel() if noise.settings["norm"] == "l2" else 1
    return noise.make(target, x, y, level * math.sqrt(pixels), draws, *below)


def _common(settings: Settings, objective: SegmentationObjective, draws: Draws) -> Common:
    return {"objective": objective, "norm": settings.norm, "generator": draws}


def _climbing(
    kind: type[SegmentationObjective],
    settings: Settings,
    target: Target,
    x: Tensor,
    y: Tensor,
    level: float,
    draws: Draws,
    below: Tensor | None = None,
    *,
    random_start: bool = True,
) -> Tensor:
    """PGD on the loss of `kind`, in reduced precision where the device computes it natively; of several random starts
    the worst point. The first of them is the noise `below`, stretched to the level, where there is such."""
    network = target.surrogate or target.network
    objective = target.objective(kind)
    if isinstance(objective, VanishObjective):
        objective = objective.making_vanish(settings.vanish or 0)
    told: Climbing = {
        **_common(settings, objective, draws),
        "steps": settings.steps,
        "alpha": settings.alpha,
        "random_start": random_start,
        "stall": None,
    }
    worst, everyone = Worst(x), torch.arange(len(x), device=x.device)
    for number in range(settings.restarts):
        start = ball.stretched(below, level, settings.norm, draws) if below is not None and number == 0 else None
        # It has less far to go from there.
        told["steps"] = settings.steps if start is None else max(1, settings.steps // 2)
        with autocast(x.device, native_bfloat16(x.device)):
            point = pgd(network, x, y, level, start=start, **told)
        if settings.restarts == 1:
            return point
        # In float32: what is broken in bfloat16 only is not the worst.
        with torch.no_grad():
            worst.update(everyone, point, scores(objective, network(point), y))
    return worst.point


def _auto(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    with autocast(x.device, native_bfloat16(x.device)):
        told = _common(settings, target.objective(), draws)
        return apgd(target.network, x, y, level, steps=settings.steps, **told)


def _padam_cos(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    with autocast(x.device, native_bfloat16(x.device)):
        told = _common(settings, target.objective(CosineObjective), draws)
        return padam(target.network, x, y, level, steps=settings.steps, **told)


def _frequency(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    """In L2 only."""
    with autocast(x.device, native_bfloat16(x.device)):
        told = _common(settings, target.objective(), draws)
        return frequency(target.network, x, y, level, band=settings.band, steps=settings.steps, **told)


def _strong(
    settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws, below: Tensor | None = None
) -> Tensor:
    """SEA: Auto-PGD on each loss of `STRONG` with shrinking radius, per slice the point of lowest Dice over all. A
    slice whose Dice is 0 already is not attacked further. From the noise `below` only the first loss starts, within the
    level itself: all of them from there would end in one place."""
    worst, dice = Worst(x), target.objective()
    left = torch.arange(len(x), device=x.device)
    for number, kind in enumerate(STRONG.values()):
        point, own = x.clone(), [draws[row] for row in left.tolist()]
        start = ball.stretched(below, level, settings.norm, own) if below is not None and number == 0 else None
        schedule = SCHEDULE if start is None else WITHIN
        with autocast(x.device, native_bfloat16(x.device)):
            told = _common(settings, target.objective(kind), own)
            point[left] = apgd(
                target.network,
                x[left],
                y[left],
                level,
                steps=settings.strong_steps,
                schedule=schedule,
                start=start,
                **told,
            )
        with torch.no_grad():
            worst.update(left, point[left], scores(dice, target.network(point[left]), y[left]))
        left = left[worst.score[left, 0] < dice.worst]
        if len(left) == 0 or level == 0:
            break
    return worst.point


def _square(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    told = _common(settings, target.objective(), draws)
    return square(target.network, x, y, level, steps=settings.queries, **told)


def _spsa(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    told = _common(settings, target.objective(), draws)
    steps, samples = settings.spsa_steps, settings.spsa_samples
    return spsa(target.network, x, y, level, steps=steps, alpha=settings.alpha, samples=samples, **told)


def _random(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    return x + level * ball.random_direction(x, draws, settings.norm)


def _transfer(settings: Settings, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws) -> Tensor:
    """PGD on the surrogate alone: its own worst point, whatever it does to the target."""
    if target.surrogate is None:
        raise ValueError("transfer needs a surrogate.")
    return _climbing(SegmentationObjective, settings, target, x, y, level, draws)


_PLAIN = ("norm", "steps", "alpha", "restarts", "seed")
_BLACK_BOX = ("norm", "seed")


def random_noise(settings: Settings) -> Noise:
    """White noise of exactly the norm of the level: what every attack must beat."""
    return Noise("random", "control", partial(_random, settings), _told(settings, _BLACK_BOX))


def _smallest(
    settings: Settings, structure: int | None, target: Target, x: Tensor, y: Tensor, level: float, draws: Draws
) -> Tensor:
    """The nearest point at which the slice, or one structure of it, fails, at most `level` away; the slice itself where
    there is none."""
    network, objective = target.network, target.objective()
    if structure is not None:
        objective = OneStructure(objective, structure)
    with autocast(x.device, native_bfloat16(x.device)):
        point = smallest(network, x, y, level, steps=settings.steps // 2, **_common(settings, objective, draws))
        with torch.no_grad():
            fails = ~objective.correct(network(x), y)
    # In float32: what fails in bfloat16 only does not fail.
    point = onto_boundary(network, x, y, point, level, objective, settings.norm)
    with torch.no_grad():
        rows = torch.nonzero(fails & objective.correct(network(x), y)).squeeze(1)
    if len(rows):
        # The search in bfloat16 took these for lost; their boundary is near.
        told = _common(settings, objective, [draws[row] for row in rows.tolist()])
        point[rows] = smallest(network, x[rows], y[rows], level, steps=settings.steps // 2, **told)
    return point


def smallest_noise(settings: Settings, structure: tuple[int, str] | None = None) -> Noise:
    """The smallest noise at which a slice fails (Dice of 60 % or less), or one structure of it, given by its number
    among the classes and its name; its level is where the search ends."""
    told = _told(settings, ("norm", "steps", "seed"))
    if structure is None:
        return Noise("smallest", "attack", partial(_smallest, settings, None), told, 200)
    number, name = structure
    make = partial(_smallest, settings, number)
    return Noise(f"smallest {name}", "attack", make, told | {"structure": number}, 200)


def attack(name: str, settings: Settings) -> Noise:
    """The attack of `ATTACKS` of this name. I-FGSM starts at the slice itself; FGSM is its single step of full length.

    KeyError for another name.
    """
    return ATTACKS[name](name, settings)


def _told(settings: Settings, names: Sequence[str]) -> dict[str, Any]:
    everything = asdict(settings)
    return {name: everything[name] for name in names}


def _pgd_like(kind: type[SegmentationObjective], name: str, settings: Settings) -> Noise:
    told = (*_PLAIN, "vanish") if kind is VanishObjective else _PLAIN
    # A surrogate is there for transfer alone: the other attacks see their own target.
    make = partial(_on_the_target, partial(_climbing, kind, settings))
    return Noise(name, "attack", make, _told(settings, told), 2.0 * settings.steps * settings.restarts, goes_on=True)


def _on_the_target(make: Make, target: Target, *told: Any) -> Tensor:
    return make(replace(target, surrogate=None), *told)


def _from_the_slice(name: str, settings: Settings) -> Noise:
    if name == "fgsm":
        settings = replace(settings, steps=1, alpha=1.0)
    settings = replace(settings, restarts=1)
    make = partial(_on_the_target, partial(_climbing, SegmentationObjective, settings, random_start=False))
    return Noise(name, "attack", make, _told(settings, _PLAIN), 2.0 * settings.steps)


def _made(make: Make, told: Sequence[str], cost: Callable[[Settings], float], goes_on: bool = False) -> Any:
    return lambda name, settings: Noise(
        name, "attack", partial(make, settings), _told(settings, told), cost(settings), goes_on
    )


ATTACKS: dict[str, Callable[[str, Settings], Noise]] = {
    "pgd": partial(_pgd_like, SegmentationObjective),
    "segpgd": partial(_pgd_like, SegPGDObjective),
    "cospgd": partial(_pgd_like, CosPGDObjective),
    "ifgsm": _from_the_slice,
    "fgsm": _from_the_slice,
    "apgd": _made(_auto, ("norm", "steps", "seed"), lambda settings: 2.0 * settings.steps),
    "strong": _made(
        _strong, ("norm", "strong_steps", "seed"), lambda settings: 8.0 * settings.strong_steps, goes_on=True
    ),
    "square": _made(_square, (*_BLACK_BOX, "queries"), lambda settings: settings.queries),
    "spsa": _made(
        _spsa,
        (*_BLACK_BOX, "alpha", "spsa_samples", "spsa_steps"),
        lambda settings: settings.spsa_samples * settings.spsa_steps,
    ),
    "transfer": _made(_transfer, (*_PLAIN, "surrogate"), lambda settings: 2.0 * settings.steps * settings.restarts),
    "vanish": partial(_pgd_like, VanishObjective),
    "padam-cos": _made(_padam_cos, ("norm", "steps", "seed"), lambda settings: 2.0 * settings.steps),
    "frequency": _made(_frequency, ("norm", "steps", "band", "seed"), lambda settings: 2.0 * settings.steps),
}
"""Attacks by the name `--attack` takes."""
