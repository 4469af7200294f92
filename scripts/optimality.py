"""How near each attack comes to the best of all at equal forwards (AttackBench: Cinà et al., AAAI 2025).

`scripts/compare_attacks.py --optimality` prints it. The curve of an attack is what it leaves at each noise level; the
lower envelope takes, of each slice, what the worst of all attacks leaves. Optimality is 1 for an attack whose curve is
the envelope, and 0 for one that changes nothing up to the level at which the envelope reaches 0.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.noises import Noise, Settings, Target, attack
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.metrics.indices import FAILURE_THRESHOLD, slice_dice
from nnunet_ima.metrics.statistics import area_under_curve

Array = NDArray[np.float64]
FULL_BALL = ("pgd", "segpgd", "cospgd", "apgd", "padam-cos", "strong")
BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))
TWICE = "strong, twice the forwards"
"""No part of the envelope: what `strong` finds with as many forwards as it and another attack take together."""


class Counted(nn.Module):
    """The network behind an affine map from [0, 1] (default: none), counting sample-forwards and sample-gradients."""

    def __init__(self, network: nn.Module, low: float = 0.0, width: float = 1.0) -> None:
        super().__init__()
        self.network, self.low, self.width = network, low, width
        self.forwards = self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._count)  # type: ignore[no-untyped-call]
        logits: Tensor = self.network(self.low + self.width * x)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def optimality(levels: Sequence[float], curve: Array, envelope: Array) -> float:
    """1 - (A - A*) / (c E - A*): areas A under `curve` and A* under `envelope` (levels,), both c at level 0.

    levels: ascending from 0. E: the level at which the envelope reaches 0, else the largest one. Areas are those of
    straight lines between the levels. NaN where no attack changes anything.
    """
    end = int(np.argmax(envelope <= 0)) if (envelope <= 0).any() else len(levels) - 1
    # Areas over E, so that c E becomes c.
    area, best = (area_under_curve(levels[: end + 1], one[: end + 1].tolist()) for one in (curve, envelope))
    possible = float(envelope[0]) - best
    return 1 - (area - best) / possible if possible > 0 else float("nan")


def cumulative(dice: Array) -> Array:
    """Dice (levels, slices) that never rises with the level: what lies in a smaller ball lies in a larger one, too."""
    return np.minimum.accumulate(dice, axis=0)


def curves(dice: Array) -> dict[str, Array]:
    """Of (levels, slices): the share of the slices that stand, and the mean Dice, each (levels,)."""
    return {"standing": (dice > FAILURE_THRESHOLD).mean(1), "dice": dice.mean(1)}


def at_equal_cost(forwards: int, settings: Settings) -> list[Noise]:
    """Every attack with as many steps as `forwards` per slice and level allow, where a gradient costs one more.

    The last point of an attack costs a forward. `strong` looks at three last points for each of its four losses, and
    once more in float32.
    """
    strong_steps = max(1, (forwards - 4 * 4) // (4 * 2))
    told = replace(settings, steps=max(1, (forwards - 1) // 2), strong_steps=strong_steps)
    noises = [attack(name, told) for name in FULL_BALL]
    if settings.norm == "l2":
        for low, high in BANDS:
            banded = attack("frequency", replace(told, band=(low, high)))
            noises.append(replace(banded, name=f"frequency {low:g} to {high:g}"))
    return noises


def attacked(subject: Subject, noise: Noise, levels: Sequence[float]) -> tuple[Array, float]:
    """Dice (levels, slices), and the forwards and gradients that a slice took per level above 0."""
    assert isinstance(subject.target.network, nn.Module)
    counted = Counted(subject.target.network).eval()
    target, places = Target(counted, subject.target.labels), subject.slices.places

    def dice_at(some: list[float]) -> Array:
        found = sweep(target, places, [(noise, some)], 32, progress=False, read=subject.slices.read).found[noise.name]
        return np.stack([slice_dice(counts) for counts in found.counts])

    noisy = dice_at([level for level in levels if level > 0])
    # A slice is counted with one more forward, which is not the attack's.
    paid = (counted.forwards + counted.gradients) / noisy.size - 1
    return cumulative(np.concatenate([dice_at([0.0]), noisy])), paid


def compare_optimality(subject: Subject, levels: Sequence[float], forwards: int) -> None:
    """Print both tables: optimality at equal forwards, and what each attack adds to `strong`."""
    levels = sorted({0.0, *levels})
    found, paid = {}, {}
    twice = replace(at_equal_cost(2 * forwards, subject.settings)[FULL_BALL.index("strong")], name=TWICE)
    for noise in (*at_equal_cost(forwards, subject.settings), twice):
        found[noise.name], paid[noise.name] = attacked(subject, noise, levels)
    control = found.pop(TWICE)
    norm = subject.settings.norm
    print(f"{len(subject.slices)} slices, at most {forwards} forwards and gradients per slice and level, {norm}")
    print(*optimality_table(levels, found, paid), sep="\n")
    print("", *union_table(levels, found, control), sep="\n")


def optimality_table(levels: Sequence[float], found: dict[str, Array], paid: dict[str, float]) -> list[str]:
    """Markdown. paid: forwards and gradients by name."""
    envelope = curves(np.min(list(found.values()), axis=0))
    above = [f"{level:g}" for level in levels if level > 0]
    head = ["attack", "forwards", "optimality, standing", "optimality, ADI", *(f"ADI at {level}" for level in above)]
    lines = [_row(head), "|---" * len(head) + "|"]
    for name, dice in found.items():
        own = curves(dice)
        near = [f"{optimality(levels, own[key], envelope[key]):.3f}" for key in ("standing", "dice")]
        lines.append(_row([name, f"{paid[name]:.0f}", *near, *_percent(own["dice"][1:])]))
    return [*lines, _row(["lower envelope", "", "1", "1", *_percent(envelope["dice"][1:])])]


def union_table(levels: Sequence[float], found: dict[str, Array], control: Array) -> list[str]:
    """Markdown: `strong` alone and with each other attack, ADI and the slices where the other one leaves less.

    control: Dice (levels, slices) of `strong` with twice the forwards.
    """
    strong = found["strong"]
    above = [f"{level:g}" for level in levels if level > 0]
    head = ["", *(f"ADI at {level}, slices lower" for level in above)]
    lines = [_row(head), "|---" * len(head) + "|", _row(["strong", *_percent(strong.mean(1)[1:])])]
    others = {f"strong and {name}": dice for name, dice in found.items() if name != "strong"}
    for name, dice in {**others, f"strong and {TWICE}": control}.items():
        both, lower = np.minimum(strong, dice).mean(1)[1:], (dice < strong).sum(1)[1:]
        lines.append(_row([name, *(f"{figure}, {count}" for figure, count in zip(_percent(both), lower, strict=True))]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(shares: Array) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]
