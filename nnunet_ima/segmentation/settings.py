"""The "ima" block of a plans file: what is in it, its defaults and its limits."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nnunet_ima.attacks.ball import NORMS, Norm
from nnunet_ima.attacks.precision import PRECISIONS
from nnunet_ima.errors import UserError, check_number
from nnunet_ima.methods.averaging import check_ema
from nnunet_ima.methods.budget import Budget
from nnunet_ima.methods.method import Method
from nnunet_ima.methods.registry import build, defaults, method_named, methods
from nnunet_ima.segmentation.objectives.dice import DICE_RULES, DiceRule
from nnunet_ima.segmentation.objectives.in_turn import ATTACK_LOSSES

Values = dict[str, Any]

NNUNET_EPOCHS = 1000
"""Of a training of nnU-Net, where nothing else is said."""


@dataclass(frozen=True)
class Settings:
    """Settings of the training for one plans file. None means nnU-Net's own value or the rule given here.

    noise_max: the paper's eps_max, largest margin, and noise level of the methods that have a fixed one, in units of
        the normalised intensities over the whole patch; None: 0.1 * sqrt(C*H*W) for IMA and MMA, a root mean square of
        0.1 SD per pixel; the others need it, or their own `noise`, or a level in the trainer's name.
    norm: of the noise.
    threshold, dice: a slice is correct if its Dice by this rule is above the threshold.
    epochs, iterations, val_iterations: length of the training; None: nnU-Net's.
    initial_lr: learning rate at the start, which nnU-Net lets fall to 0; None: nnU-Net's 0.01.
    budget: cost of the whole training, in forwards of a batch (a plain step is 3), spent evenly over its epochs in
        place of `iterations`; None: as many steps as `iterations` says, whatever they cost.
    ema: decay of an average of the weights, which is what nnU-Net then validates and saves; 0: none.
    awp: AWP's gamma, the size of the noise on the weights as a share of each layer's norm; 0: none.
    attack_loss: what attacks climb in training: `nnunet`, nnU-Net's own loss per slice, or `in_turn`, step by step that
        and the losses of the ensemble `strong`.
    recompute: whether training passes keep their input only and compute their activations again for the gradient, so
        that a step of an attack method needs no more memory than a plain one, for about two more forward passes; None:
        in 3D only.
    attack_precision: `float32` or `bfloat16`, or `auto`: on the CPU bfloat16 where the processor computes it natively,
        else float32; on CUDA the float16 of nnU-Net's own autocast.
    val_noise: noise level of a short attack on nnU-Net's validation batches in each epoch, which shows how robust the
        model is and keeps `checkpoint_best_robust.pth`; None: no attack. Trainers of methods that attack only.
    clean_loss: percentage points of pseudo Dice that this checkpoint may be below the best epoch without noise, both in
        their running means.
    ladder: number of checkpoints that are kept evenly over the training; 0: none.
    methods: settings by name by the word of a method, {"trades": {"beta": 1}}; what is not given has the method's
        default.
    """

    noise_max: float | None = None
    norm: Norm = "l2"
    threshold: float = 0.6
    dice: DiceRule = "mean"
    epochs: int | None = None
    iterations: int | None = None
    val_iterations: int | None = None
    initial_lr: float | None = None
    attack_precision: str = "auto"
    budget: float | None = None
    ema: float = 0.0
    awp: float = 0.0
    attack_loss: str = "nnunet"
    recompute: bool | None = None
    val_noise: float | None = None
    clean_loss: float = 10.0
    ladder: int = 0
    methods: dict[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("noise_max", "initial_lr", "val_noise"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        check_number("threshold", self.threshold, 0, 1)
        for name in ("epochs", "iterations", "val_iterations"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1, whole=True)
        if self.budget is not None:
            check_number("budget", self.budget, 1)
        check_ema(self.ema)
        check_number("clean_loss", self.clean_loss, 0, 100)
        check_number("ladder", self.ladder, 0, whole=True)
        check_number("awp", self.awp, 0, 1)
        choices = (
            ("norm", NORMS),
            ("dice", DICE_RULES),
            ("attack_precision", PRECISIONS),
            ("attack_loss", ATTACK_LOSSES),
            ("recompute", (None, True, False)),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}.")
        if not isinstance(self.methods, dict) or not all(isinstance(one, dict) for one in self.methods.values()):
            raise UserError(f"methods must hold settings by method, got {self.methods!r}.")
        for word, values in self.methods.items():
            method = method_named(word)
            build(method, values, None, method.norms[0])

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

    def block(self) -> Values:
        """As it is written into plans: what is set, and the settings of all methods."""
        written = {name: value for name, value in asdict(self).items() if value is not None}
        return written | {"methods": self.all_methods()}

    def all_methods(self) -> dict[str, Values]:
        """Of each method that attacks its settings, the papers' where none are given."""
        attacking = {word: method for word, method in methods().items() if word != "ce"}
        return {word: defaults(method) | self.methods.get(word, {}) for word, method in attacking.items()}

    def build(self, method: type[Method], level: float | None, channels: int, patch_size: tuple[int, ...]) -> Method:
        """The method for patches of this size; level: in the trainer's name, None if there is none there.

        UserError where the method has no such norm."""
        given = dict(self.methods.get(method.word, {}))
        if level is not None:
            given["noise"] = level
        usual = self.resolved_noise_max(channels, patch_size) if method.noise_is_largest else self.noise_max
        return build(method, given, usual, self.norm)

    def check_budget(self, label: str, cost: float) -> None:
        """UserError where an epoch could not have a single step, which costs up to `cost` forwards."""
        if self.budget is not None:
            Budget(self.budget, self.epochs or NNUNET_EPOCHS).check(label, cost)

    def resolved_noise_max(self, channels: int, patch_size: tuple[int, ...]) -> float:
        """eps_max for patches of this size."""
        if self.noise_max is not None:
            return float(self.noise_max)
        return 0.1 * math.sqrt(channels * math.prod(patch_size)) if self.norm == "l2" else 0.1


PAPER: dict[str, tuple[float, float]] = {"D2": (25.0, 5.0), "D4": (15.0, 2.0), "D5": (40.0, 10.0)}
"""The paper's noise_max and margin_step by MSD task (methods: 50 epochs x 50 iterations, 20-PGD, alpha 4, 10
bisections, beta 0.5)."""


def paper_settings(dataset_id: int, scale: float = 1.0) -> Settings:
    """Settings of the paper's runs for D2 Heart, D4 Hippocampus or D5 Prostate. UserError for another data set.

    scale: of the noise levels, which are those of slices: for patches of a volume the root of how many times as many
    voxels they have, so that the root mean square per voxel is the paper's per pixel."""
    name = f"D{dataset_id}"
    if name not in PAPER:
        raise UserError(f"preset paper knows {', '.join(PAPER)}, not {name}: give --noise-max instead.")
    noise_max, margin_step = (round(scale * level, 2) for level in PAPER[name])
    return Settings(noise_max=noise_max, epochs=50, iterations=50, methods={"ima": {"margin_step": margin_step}})
