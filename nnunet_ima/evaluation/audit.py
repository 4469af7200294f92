"""Is the attack worth its figures? Checks after Carlini et al. (2019, "On Evaluating Adversarial Robustness") and
AutoAttack's flags (Croce and Hein, 2020): a model can look robust because the attack was weak or its gradients were
masked, and each of these checks can tell.

They run on a few slices that the model segments rightly without noise, at one noise level at which the attack bites
and does not yet destroy everything.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import frozen, input_gradient
from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.noises import Noise, Settings, Target, attack, random_noise
from nnunet_ima.evaluation.sweep import Sweep
from nnunet_ima.evaluation.under_noise import stacked
from nnunet_ima.metrics.indices import FAILURE_THRESHOLD, mean_dice, slice_dice
from nnunet_ima.segmentation.cases.slices import Slice, batches

Verdict = Literal["PASS", "WARN", "FAIL"]
Dice = NDArray[np.float64]
WHITE_BOX = ("pgd", "segpgd", "cospgd", "ifgsm", "fgsm", "apgd", "strong", "padam-cos")
SLICES = 16
QUERIES = 500
RESTARTS = 3


@dataclass(frozen=True)
class Check:
    """figure: what was measured; wanted: what passes."""

    name: str
    verdict: Verdict
    figure: str
    wanted: str


def worst_verdict(checks: Sequence[dict[str, str]]) -> Verdict:
    found = {check["verdict"] for check in checks}
    return "FAIL" if "FAIL" in found else "WARN" if "WARN" in found else "PASS"


def audit(subject: Subject, found: Sweep, batch_size: int = 32) -> list[dict[str, str]]:
    """All checks, as dictionaries of texts; see `Check`.

    found: the sweep of the model. Its white-box attacks are judged together, by the lowest Dice of each slice over
    them (PGD alone where there is none): what `strong` finds counts for them.

    Empty if the model segments no slice rightly: then there is nothing to attack.
    """
    judged = [name for name in found.found if name in WHITE_BOX] or ["pgd"]
    clean = next(one for one in found.found.values() if one.noise.family == "attack")
    run = [found.found[name] for name in judged if name in found.found] or [clean]
    # A slice without a Dice is a perfect one, so that any other attack's Dice is lower.
    dice = np.fmin.reduce([[slice_dice(counts) for counts in one.counts] for one in run])
    chosen = _chosen(found, dice[0])
    if not chosen:
        return []
    by_name = {(place.case, place.number): place for place in subject.slices.places}
    slices = subject.slices.read([by_name[found.slices[row]] for row in chosen])
    level = _level(clean.levels, dice[:, chosen])
    auditor = _Auditor(subject.target, subject.settings, slices, level, judged, batch_size)
    groups: list[Callable[[], list[Check]]] = [
        auditor.stability,
        # Up nested levels it falls by construction.
        lambda: [] if clean.noise.nested else [_falls_with_noise(clean.levels, dice)],
        lambda: [auditor.huge_noise_destroys(max(clean.levels))],
        auditor.gradients,
        auditor.effort,
        auditor.order,
        auditor.black_box,
    ]
    bar = tqdm(groups, "Checks of the attack", unit="group", leave=False, dynamic_ncols=True)
    checks = [check for group in bar for check in group()]
    return [asdict(check) for check in checks]


def _chosen(found: Sweep, clean: NDArray[np.float64]) -> list[int]:
    """Rows of up to `SLICES` slices that are right without noise, spread over the cases."""
    right = np.flatnonzero(clean > FAILURE_THRESHOLD)
    if len(right) == 0:
        return []
    ordered = sorted(right.tolist(), key=lambda row: found.slices[row])
    spread = np.unique(np.linspace(0, len(ordered) - 1, SLICES).round().astype(int))
    return [ordered[number] for number in spread]


def _level(levels: Sequence[float], dice: NDArray[np.float64]) -> float:
    """The level above 0 at which the mean Dice is nearest to half of what it is without noise."""
    means = mean_dice(dice, axis=1)
    rows = [row for row, level in enumerate(levels) if level > 0]
    return levels[min(rows, key=lambda row: abs(means[row] - means[0] / 2))] if rows else 1.0


def _verdict(value: float, passes: float, warns: float) -> Verdict:
    """PASS up to one limit, WARN up to the other, FAIL above, and for what is no number."""
    return "PASS" if value <= passes else "WARN" if value <= warns else "FAIL"


def _falls_with_noise(levels: Sequence[float], dice: NDArray[np.float64]) -> Check:
    means = 100 * mean_dice(dice, axis=1)
    rise = float(np.diff(means).max()) if len(means) > 1 else 0.0
    return Check(
        "Dice falls as noise grows",
        _verdict(rise, 0.5, 2),
        f"largest rise between levels {max(rise, 0.0):.1f} points",
        "at most 0.5 points",
    )


@dataclass
class _Auditor:
    """The checks that need the model. Dice in percent points, means over the chosen slices."""

    target: Target
    settings: Settings
    slices: list[Slice]
    level: float
    judged: Sequence[str]
    batch_size: int

    def dice(self, noise: Noise, level: float | None = None, target: Target | None = None) -> Dice:
        """Dice (percent) of each chosen slice under a noise; the attack on `target`, the Dice always the model's."""
        found = []
        for batch in batches(self.slices, self.batch_size):
            x, y, names = stacked(self.target, batch)
            seeds = [f"{noise.settings['seed']} {name}" for name in names]
            noisy = noise(target or self.target, x, y, self.level if level is None else level, seeds)
            with torch.no_grad():
                found.append(self.target.objective().counts(self.target.network(noisy), y).cpu())
        return 100 * slice_dice(torch.cat(found).numpy())

    def white_box(self, settings: Settings, level: float | None = None, target: Target | None = None) -> Dice:
        """Of each slice the lowest Dice over the judged attacks."""
        found: Dice = np.min([self.dice(attack(name, settings), level, target) for name in self.judged], axis=0)
        return found

    @cached_property
    def white(self) -> Dice:
        return self.white_box(self.settings)

    def stability(self) -> list[Check]:
        """The same input gives the same answer, and an attack without noise changes nothing."""
        x, y, names = stacked(self.target, batches(self.slices, self.batch_size)[0])
        with torch.no_grad():
            first, second = self.target.network(x).float(), self.target.network(x).float()
        difference = float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))
        change = float((attack("pgd", self.settings)(self.target, x, y, 0.0, names) - x).abs().max())
        return [
            Check(
                "The same slice twice gives the same answer",
                _verdict(difference, 1e-4, 1e-2),
                f"relative difference {difference:.1e}",
                "at most 1e-4: no randomness for an attack to fight with",
            ),
            Check(
                "At noise level 0 the attack changes nothing",
                "PASS" if change == 0 else "FAIL",
                f"largest change {change:g}",
                "0",
            ),
        ]

    def huge_noise_destroys(self, largest: float) -> Check:
        pixels = self.slices[0].image.numel() ** 0.5 if self.settings.norm == "l2" else 1.0
        level = max(10 * largest, pixels)
        left = float(np.nanmean(self.white_box(self.settings, level)))
        return Check(
            "Huge noise leaves nothing",
            _verdict(left, 5, 20),
            f"Dice {left:.1f} at noise level {level:.3g}",
            "at most 5: no attack can fail there",
        )

    def gradients(self) -> list[Check]:
        """Share of slices without a gradient, and whether the loss rises as the gradient promises (float32)."""
        zero, promise = [], []
        for batch in batches(self.slices, self.batch_size):
            gradient, slope = self._slopes(batch)
            largest = ball.size(gradient, "linf")
            usable = torch.isfinite(largest) & (largest > 0)
            zero += (~usable).tolist()
            length = ball.size(gradient, "l2")
            promise += (usable & ((slope / length - 1).abs() <= 0.5)).tolist()
        share, kept = 100 * float(np.mean(zero)), 100 * float(np.mean(promise))
        return [
            Check("Every slice has a gradient", _verdict(share, 0, 10), f"{share:.0f} % of them have none", "0 %"),
            Check(
                "The loss rises as its gradient promises",
                _verdict(100 - kept, 10, 40),
                f"within a factor of two on {kept:.0f} % of the slices",
                "at least 90 %: gradients are not masked",
            ),
        ]

    def _slopes(self, batch: Sequence[Slice]) -> tuple[Tensor, Tensor]:
        """Gradient of the loss (summed over pixels), and its slope along it over a thousandth of the noise level."""
        x, y, _ = stacked(self.target, batch)
        objective = self.target.objective()
        with frozen(self.target.network), torch.enable_grad():
            point = x.clone().requires_grad_(True)
            gradient = input_gradient(objective.loss(self.target.network(point), y), point, y).float()
        unit, step = ball.direction(gradient, "l2"), 2e-3 * self.level * (1 if self.settings.norm == "l2" else 10)
        with torch.no_grad():
            ahead, behind = (objective.loss(self.target.network(x + sign * step * unit), y) for sign in (0.5, -0.5))
        return gradient, (ahead - behind) * y[0].numel() / step

    def effort(self) -> list[Check]:
        """More steps, and more random starts, change little; nor does the scale of the logits matter."""
        told = self.settings
        longer = self.white_box(replace(told, steps=2 * told.steps, strong_steps=2 * told.strong_steps))
        starts = [self.white_box(replace(told, seed=told.seed + number)) for number in range(1, RESTARTS)]
        tempered = self.white_box(told, target=replace(self.target, network=_Tempered(self.target)))
        rows = (
            ("Twice the steps find little more", longer, "with twice the steps"),
            (f"{RESTARTS} random starts find little more", np.min([self.white, *starts], axis=0), "at worst"),
            ("The loss does not saturate", tempered, "with logits of moderate size"),
        )
        checks = []
        for name, dice, what in rows:
            gain = float(np.nanmean(self.white) - np.nanmean(dice))
            figure = f"Dice {np.nanmean(self.white):.1f}, {np.nanmean(dice):.1f} {what}"
            checks.append(
                Check(name, _verdict(gain, 3, 6), figure, "at most 3 points less; else try --attack pgd,strong")
            )
        return checks

    def order(self) -> list[Check]:
        """Random noise, FGSM, I-FGSM, the attack: each at least as strong as the one before, case by case."""
        random = self.dice(random_noise(self.settings))
        rows = [random, *(self.dice(attack(name, self.settings)) for name in ("fgsm", "ifgsm")), self.white]
        gain = float(np.nanmean(random) - np.nanmean(self.white))
        broken = 100 * float(np.mean([(np.diff(dice) > 3).any() for dice in self._by_case(rows)]))
        means = ", ".join(f"{np.nanmean(dice):.1f}" for dice in rows)
        return [
            Check(
                "The attack is stronger than random noise",
                _verdict(-gain, -5, -1),
                f"Dice {np.nanmean(random):.1f} under random noise, {np.nanmean(self.white):.1f} under attack",
                "at least 5 points lower",
            ),
            Check(
                "Random, FGSM, I-FGSM, the attack: each at least as strong",
                _verdict(broken, 10, 30),
                f"Dice {means}; out of order by more than 3 points in {broken:.0f} % of the cases",
                "at most 10 %",
            ),
        ]

    def _by_case(self, rows: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Mean Dice of each case under each noise."""
        names = np.asarray([item.case for batch in batches(self.slices, self.batch_size) for item in batch])
        return [np.asarray([np.nanmean(dice[names == case]) for dice in rows]) for case in sorted(set(names))]

    def black_box(self) -> list[Check]:
        """Attacks that never see this model's gradient find nothing that the white-box attacks do not."""
        settings = replace(self.settings, queries=QUERIES)
        noises = [(f"Square ({QUERIES} queries)", attack("square", settings))]
        if self.target.surrogate is not None:
            noises.append(("Transfer", attack("transfer", self.settings)))
        checks = []
        for name, noise in noises:
            dice = self.dice(noise)
            gain = float(np.nanmean(self.white) - np.nanmean(dice))
            better = 100 * float(np.mean(dice < self.white - 3))
            verdict = max(_verdict(gain, 0.5, 3), _verdict(better, 10, 30), key=("PASS", "WARN", "FAIL").index)
            means = f"Dice {np.nanmean(dice):.1f} against {np.nanmean(self.white):.1f}"
            figure = f"{means}; stronger on {better:.0f} % of the slices"
            wanted = "no lower, and stronger on at most 10 % of the slices"
            checks.append(Check(f"{name} is not stronger than the attack", verdict, figure, wanted))
        return checks


class _Tempered(torch.nn.Module):
    """The network with logits whose largest is 10 in each slice: what saturates a loss, be it the model's confidence
    or a trick, does not help it here."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.network = target.network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).float()
        largest = ball.size(logits.detach(), "linf").clamp_min(1e-12)
        return logits * ball.broadcast(10 / largest, logits)
