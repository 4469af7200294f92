"""What a classification training was told: kept beside its checkpoints, so that it can be continued and repeated."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunet_ima.attacks.ball import NORMS, Norm
from nnunet_ima.attacks.precision import PRECISIONS
from nnunet_ima.errors import UserError, check_number
from nnunet_ima.files import replacing
from nnunet_ima.methods.averaging import check_ema
from nnunet_ima.methods.budget import Budget
from nnunet_ima.methods.cost import PLAIN_STEP
from nnunet_ima.methods.method import Method, Run, settings_of
from nnunet_ima.methods.registry import build, method_named

BOUNDS = (0.0, 1.0)
"""Of the intensities."""

USUAL_NOISE = 30.0
"""The paper's eps_max on COVID-19 CT."""


@dataclass(frozen=True)
class Settings:
    """noise_max: the largest margin of `ima` and `mma`, the fixed noise level of others, in the units of images in
    [0, 1]; None: 30, the paper's, for `ima` and `mma`; the others need it.
    method_settings: of the method, by name; what is not given has the method's default.
    optimizer: None: the paper's, AdamW for `ce` and Adam for the others, at torch's defaults; "sgd": momentum 0.9.
    pretrained: the checkpoint of another run whose weights the training starts from.
    budget: cost of the whole training, in forwards of a batch (a plain step is 3), spent evenly over the epochs, of
        which each then is as many steps as its share pays for; None: an epoch is every image once.
    ema: decay of an average of the weights, which is what is validated and saved; 0: none.
    awp: AWP's gamma, the size of the noise on the weights as a share of each layer's norm; 0: none.
    attack_precision: `float32` or `bfloat16`, or `auto`: on the CPU bfloat16 where the processor computes it natively,
        else float32; on CUDA the training's float16.
    """

    method: str = "ima"
    epochs: int = 40
    image_size: int = 224
    channels: int = 1
    batch_size: int = 32
    noise_max: float | None = None
    norm: Norm = "l2"
    method_settings: dict[str, Any] = field(default_factory=dict)
    optimizer: str | None = None
    learning_rate: float | None = None
    seed: int = 0
    pretrained: str | None = None
    attack_precision: str = "auto"
    budget: float | None = None
    ema: float = 0.0
    awp: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "image_size", "batch_size", "channels"):
            check_number(name, getattr(self, name), 1, whole=True)
        if self.image_size <= 32:
            # ResNet-18 shrinks an image by 32, and instance normalisation needs more than a single pixel.
            raise UserError(f"image_size must be above 32, got {self.image_size}: choose 64 or more.")
        for name in ("noise_max", "learning_rate"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0)
        allowed = (("norm", NORMS), ("attack_precision", PRECISIONS), ("optimizer", (None, "adam", "adamw", "sgd")))
        for name, known in allowed:
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(map(str, known))}, got {getattr(self, name)}.")

        check_ema(self.ema)
        check_number("awp", self.awp, 0, 1)
        if self.budget is not None:
            check_number("budget", self.budget, 1)
            Budget(self.budget, self.epochs).check(method_named(self.method).label, self.usual_cost)
        self.build().begin(Run([], self.epochs))

    @property
    def usual_cost(self) -> float:
        """Of a training step, in forwards of its batch, before one was taken."""
        method = self.build()
        return (PLAIN_STEP if method.is_off else method.usual_cost) + (6 if self.awp else 0)

    def build(self) -> Method:
        """The training method, not begun yet. UserError for a setting or a norm that it does not have."""
        method = method_named(self.method)
        if self.noise_max is not None and "noise" not in settings_of(method):
            raise UserError(f"{method.label} has no noise level: leave --noise-max out.")
        noise = USUAL_NOISE if self.noise_max is None and method.noise_is_largest else self.noise_max
        return build(method, self.method_settings, noise, self.norm, BOUNDS)

    def write(self, path: Path, classes: list[str], data: Path) -> None:
        """data: the folder of the images, which the test split is read from again."""
        with replacing(path) as temporary:
            content = {**asdict(self), "classes": classes, "data": str(data.resolve())}
            temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_settings(run: Path) -> tuple[Settings, list[str], Path]:
    """The settings of a run, its classes and the folder of its images. UserError if the folder holds no run."""
    try:
        content: dict[str, Any] = json.loads((run / "settings.json").read_text())
        classes = content.pop("classes")
        # What is missing was written before there was such a setting.
        settings = Settings(**{one.name: content[one.name] for one in fields(Settings) if one.name in content})
        return settings, list(classes), Path(content["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run} holds no run of nnunet-ima-classify ({error}): name the --output of a training."
        ) from error
