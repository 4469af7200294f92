"""The "ima" block of a plans file: what is in it, its defaults and its limits."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from nnunet_ima.attacks.ball import NORMS, Norm
from nnunet_ima.attacks.precision import PRECISIONS
from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.dice import DICE_RULES, DiceRule


@dataclass(frozen=True)
class Settings:
    """Settings of IMA training for one plans file. None means nnU-Net's own value or the rule given here.

    noise_max: the paper's eps_max, largest margin, in units of the normalised intensities over the whole patch;
        None: 0.1 * sqrt(C*H*W), i.e. a root mean square of 0.1 SD per pixel.
    margin_step: the paper's Delta, initial margin and expansion per epoch; None: noise_max / (epochs * P), P the
        probability that a slice is drawn in an epoch, so that a slice that is never broken ends at noise_max.
    beta: weight of the noisy loss. steps, alpha, bisections, norm, random_start: of the attack.
    threshold, dice: a slice is correct if its Dice by this rule is above the threshold.
    epochs, iterations, val_iterations: length of the training; None: nnU-Net's.
    attack_precision: on the CPU. `auto`: bfloat16 where the processor computes it natively, else float32
        (on CUDA the attack runs under nnU-Net's own autocast).
    """

    noise_max: float | None = None
    margin_step: float | None = None
    beta: float = 0.5
    steps: int = 20
    alpha: float = 4.0
    bisections: int = 10
    norm: Norm = "l2"
    random_start: bool = False
    threshold: float = 0.6
    dice: DiceRule = "mean"
    epochs: int | None = None
    iterations: int | None = None
    val_iterations: int | None = None
    attack_precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("noise_max", "margin_step"):
            _check_number(name, getattr(self, name), 0, math.inf)
        _check_number("beta", self.beta, 0, 1)
        _check_number("alpha", self.alpha, 0, math.inf)
        _check_number("threshold", self.threshold, 0, 1)
        for name, low in (("steps", 1), ("bisections", 0), ("epochs", 1), ("iterations", 1), ("val_iterations", 1)):
            _check_count(name, getattr(self, name), low)
        for name, allowed in (("norm", NORMS), ("dice", DICE_RULES), ("attack_precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if not isinstance(self.random_start, bool):
            raise UserError(f"random_start must be true or false, got {self.random_start!r}.")

    @classmethod
    def of(cls, plans: dict[str, Any]) -> "Settings":
        """The settings in a plans file, or the defaults if it has no "ima" block. UserError for a bad block."""
        block = plans.get("ima", {})
        known = [field.name for field in fields(cls)]
        if not isinstance(block, dict):
            raise UserError(f'The "ima" block of the plans must hold settings by name, got {block!r}.')
        for key in block:
            if key not in known:
                raise UserError(f'The "ima" block of the plans has the unknown key {key!r}; known: {", ".join(known)}.')
        return cls(**block)

    def block(self) -> dict[str, Any]:
        """As it is written into plans: only what is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def resolved_noise_max(self, channels: int, patch_size: tuple[int, ...]) -> float:
        """eps_max for patches of this size."""
        if self.noise_max is not None:
            return float(self.noise_max)
        return 0.1 * math.sqrt(channels * math.prod(patch_size)) if self.norm == "l2" else 0.1


def default_margin_step(noise_max: float, epochs: int, slices: int, draws: int) -> float:
    """Delta = eps_max / (epochs * P), P = 1-(1-1/S)^D with S slices and D draws per epoch: nnU-Net draws with
    replacement, so a slice is seen in a share P of the epochs only."""
    seen = 1 - (1 - 1 / slices) ** draws
    return noise_max / (epochs * seen)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None and name in ("noise_max", "margin_step"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isinf(value):
        limits = f"between {low:g} and {high:g}" if math.isfinite(high) else f"a number, {low:g} or larger"
        raise UserError(f"{name} must be {limits}, got {value!r}.")


def _check_count(name: str, value: Any, low: int) -> None:
    if value is None and name in ("epochs", "iterations", "val_iterations"):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise UserError(f"{name} must be a whole number, {low} or larger, got {value!r}.")


PAPER: dict[str, dict[str, float]] = {
    "D2": {"noise_max": 25.0, "margin_step": 5.0},
    "D4": {"noise_max": 15.0, "margin_step": 2.0},
    "D5": {"noise_max": 40.0, "margin_step": 10.0},
}
"""The paper's settings by MSD task (methods: 50 epochs x 50 iterations, 20-PGD, alpha 4, 10 bisections, beta 0.5)."""


def paper_settings(dataset_id: int) -> Settings:
    """Settings of the paper's runs for D2 Heart, D4 Hippocampus or D5 Prostate. UserError for another data set."""
    name = f"D{dataset_id}"
    if name not in PAPER:
        raise UserError(f"preset paper knows {', '.join(PAPER)}, not {name}: give --noise-max instead.")
    return Settings(**PAPER[name], epochs=50, iterations=50)  # type: ignore[arg-type]
