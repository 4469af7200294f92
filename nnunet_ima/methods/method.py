"""What every training method is made of: the batch it is given, what it remembers, the loss it returns.

A method says which radius a sample gets, which point of the attack it keeps, how the losses are weighed and mixed, and
what is remembered between epochs. It knows neither nnU-Net nor classification: those come as a `Batch` and a `Run`.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from nnunet_ima.attacks.ball import NORMS, Norm
from nnunet_ima.attacks.boundary import Boundary, bpgd
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.attacks.threat import Climbing
from nnunet_ima.errors import UserError, check_number
from nnunet_ima.methods.cost import Cost
from nnunet_ima.methods.stopwatch import Stopwatch

Found = TypeVar("Found")

Gather = Callable[[Any], list[Any]]
"""What all processes of a training noted, in the same order on each."""


def alone(own: Any) -> list[Any]:
    """The `Gather` of a training with one process."""
    return [own]


class Pass(Protocol):
    """One training pass of the network over some samples, its graph kept."""

    @property
    def logits(self) -> Tensor:
        """(N, K, ...), at full resolution."""

    def loss(self) -> Tensor:
        """The task's own training loss of these samples together, a scalar."""

    def losses(self) -> Tensor:
        """The same for each sample alone, (N,)."""


class Batch(Protocol):
    """One training step as a method sees it.

    x, y: images and references of N samples; ids: their names, by which margins are kept.
    clean: the training pass over `x`. shared_logits: its logits where they can serve an attack as its first iterate,
    else None.
    """

    @property
    def x(self) -> Tensor: ...
    @property
    def y(self) -> Tensor: ...
    @property
    def ids(self) -> Sequence[Hashable]: ...
    @property
    def objective(self) -> Objective: ...
    @property
    def clean(self) -> Pass: ...
    @property
    def shared_logits(self) -> Tensor | None: ...

    def attacked(self) -> AbstractContextManager[Model]:
        """The network for attacks: frozen, logits only, in the precision of attacks."""

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Pass:
        """A training pass over noisy images: of the whole batch, or of the samples `rows`."""


@dataclass(frozen=True)
class Run:
    """What a method learns of the training at its start.

    ids: the samples that can have a margin. epochs: of the training. seen: probability that a sample is drawn in an
    epoch. shape: of a sample. intensity_range: measures how far apart the intensities of the training images are
    (1 for images in 0 to 1).
    """

    ids: Sequence[Hashable]
    epochs: int
    seen: float = 1.0
    shape: tuple[int, ...] = (1,)
    intensity_range: Callable[[], float] = lambda: 1.0

    def unit(self, norm: Norm) -> float:
        """The norm of a change of every pixel by 1/255 of the range: what papers on pictures count margins in."""
        pixels = math.prod(self.shape) if norm == "l2" else 1
        return self.intensity_range() / 255 * math.sqrt(pixels)


@dataclass
class Tally:
    """Counts of one epoch, summed over its steps."""

    samples: int = 0
    eligible: int = 0
    correct: int = 0
    crossed: int = 0
    attack_steps: int = 0
    seconds: float = 0.0
    drawn: int = 0
    forwards: int = 0

    def merge(self, other: "Tally") -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def shares(self) -> dict[str, float]:
        """Share of the eligible samples that were correct, share of those that crossed, mean steps of an attack; and
        what a step cost, in forwards of its batch (`Cost`)."""
        return {
            "correct": self.correct / max(self.eligible, 1),
            "crossed": self.crossed / max(self.correct, 1),
            "attack_steps": self.attack_steps / max(self.correct, 1),
            "attack_seconds": self.seconds,
            "cost": self.forwards / max(self.drawn, 1),
        }


def number(default: Any, low: float = 0.0, high: float = math.inf) -> Any:
    """A setting of a method: a number from `low` to `high`; None only where that is the default."""
    return field(default=default, metadata={"low": low, "high": high, "whole": False})


def count(default: Any, low: int) -> Any:
    """A setting of a method: a whole number, `low` or larger."""
    return field(default=default, metadata={"low": low, "high": math.inf, "whole": True})


@dataclass(kw_only=True)
class Method:
    """The base of all methods; its fields and those of a method are its settings.

    steps, alpha, norm, random_start, bounds: of the attack, see `pgd`.
    first_steps: steps of the attack at the beginning of the training; they grow evenly to `steps` at its end. None:
    `steps` throughout.
    stall: the attack of a sample ends once its loss has not risen for this many steps. None: it takes all.
    """

    word: ClassVar[str] = ""
    """As in `--method word` and the plans."""
    label: ClassVar[str] = ""
    """As in `nnUNetTrainerLabel`, and in tables."""
    norms: ClassVar[tuple[Norm, ...]] = NORMS
    noise_is_largest: ClassVar[bool] = False
    """Whether `noise` is the largest margin, which has a usual value, and no level that somebody must choose."""

    steps: int = count(20, 1)
    alpha: float = number(4.0)
    norm: Norm = "l2"
    random_start: bool = False
    bounds: tuple[float, float] | None = None
    first_steps: int | None = count(None, 1)
    stall: int | None = count(None, 1)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.metadata and not (value is None and one.default is None):
                check_number(f"{one.name} of {self.label}", value, **one.metadata)
        if self.norm not in self.norms:
            raise UserError(f"{self.label} has no norm {self.norm}: use {' or '.join(self.norms)}.")
        if not isinstance(self.random_start, bool):
            raise UserError(f"random_start of {self.label} must be true or false, got {self.random_start!r}.")
        if self.first_steps is not None and self.first_steps > self.steps:
            raise UserError(
                f"first_steps of {self.label} must be at most its steps, {self.steps}, got {self.first_steps}."
            )
        self.progress = 0.0
        self.cost = Cost()
        self.drawn = 0
        self.found: list[Any] = []
        self.repeated: Iterator[Any] | None = None
        self.breakable: frozenset[Hashable] = frozenset()
        self.tally = Tally()
        self.stopwatch = Stopwatch()

    @property
    def is_off(self) -> bool:
        """Whether the settings mean training without noise."""
        return False

    def begin(self, run: Run) -> None:
        """Called once, before the first epoch or before `load_state`."""
        self.breakable = frozenset(run.ids)

    @property
    def remark(self) -> str:
        """What a user should know of these settings in the training that has begun, a sentence, or nothing."""
        return ""

    def can_break(self, batch: Batch) -> Tensor:
        """Which samples can be right or wrong at all, bool (N,): a slice without foreground in its reference is
        neither, it has a loss only."""
        return to_device(torch.tensor([sample in self.breakable for sample in batch.ids]), batch)

    def loss(self, batch: Batch) -> Tensor:
        """Attack the batch, note what that showed, and return the loss of the step."""
        raise NotImplementedError

    @property
    def attack_steps(self) -> int:
        """Steps of the attack at this point of the training."""
        if self.first_steps is None:
            return self.steps
        return min(self.steps, self.first_steps + int((self.steps - self.first_steps + 1) * self.progress))

    @property
    def usual_cost(self) -> float:
        """About what a step costs where attacks take all their steps, in forwards of its batch: serves until the first
        epoch has shown it."""
        return 6.0 + 2 * self.attack_steps

    def step_loss(self, batch: Batch) -> Tensor:
        """`loss`, its cost counted and what its attacks find kept for `repeated_loss`: what a training calls."""
        self.found, self.drawn = [], len(batch.ids)
        return self.loss(self.cost.counted(batch))

    def repeated_loss(self, batch: Batch) -> Tensor:
        """The loss of the same step once more, on the noise found before, for a network whose weights have moved
        meanwhile: nothing is attacked and nothing noted."""
        self.repeated = iter(self.found)
        try:
            with self.unnoted():
                return self.loss(self.cost.counted(batch))
        finally:
            self.repeated = None

    def search(self, attack: Callable[[], Found]) -> Found:
        """What `attack` finds; in a `repeated_loss` what it found the first time."""
        if self.repeated is not None:
            return next(self.repeated)  # type: ignore[no-any-return]
        found = attack()
        self.found.append(found)
        return found

    @contextmanager
    def unnoted(self) -> Iterator[None]:
        """What is noted within is forgotten."""
        tally, self.tally = self.tally, Tally()
        try:
            yield
        finally:
            self.tally = tally

    def start_epoch(self, progress: float) -> None:
        """progress: share of the training that is done, 0 to 1."""
        self.progress = progress

    def start_step(self) -> None:
        """What the coming training step shows is noted apart, until `end_step` says whether it counts."""
        self.before = self.tally
        self.tally = Tally()

    def end_step(self, counts: bool) -> None:
        """counts: whether the optimiser moved the network; what a step showed is forgotten otherwise."""
        step, self.tally = self.tally, self.before
        self.found = []
        if counts:
            self.tally.merge(step)
        # Spent all the same.
        self.tally.merge(Tally(drawn=self.drawn, forwards=self.cost.read()))
        self.drawn = 0

    def end_epoch(self, gather: Gather = alone) -> Tally:
        """Learn from what the epoch showed; its counts, and a clean slate for the next one."""
        self.tally.seconds = self.stopwatch.read()
        noted = gather(self.tally)
        total = Tally()
        for other in noted:
            total.merge(other)
        total.seconds /= len(noted)
        self.tally = Tally()
        return total

    def state(self) -> dict[str, Any]:
        """What is remembered between epochs, for a checkpoint: plain Python and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint. UserError, and nothing changed, where it does not fit."""

    @contextmanager
    def attacked(self, batch: Batch) -> Iterator[Model]:
        """The network for attacks, and the time they take counted."""
        with self.stopwatch.running(batch.x.device), self.cost.attacking(), batch.attacked() as model:
            yield self.cost.counted_model(model)

    def climbing(self, objective: Objective) -> Climbing:
        """What the settings tell an attack by gradient steps."""
        return {
            "objective": objective,
            "norm": self.norm,
            "bounds": self.bounds,
            "steps": self.attack_steps,
            "alpha": self.alpha,
            "random_start": self.random_start,
            "stall": self.stall,
        }

    def bpgd(self, batch: Batch, radius: float | Tensor, bisections: int, rows: Tensor | None = None) -> Boundary:
        """The samples on the decision boundary within `radius`, of the whole batch or of the samples `rows`; whoever
        asks counts."""
        x, y = (batch.x, batch.y) if rows is None else (batch.x.detach()[rows], batch.y[rows])

        def attack() -> Boundary:
            with self.attacked(batch) as model:
                clean_logits = batch.shared_logits if rows is None else None
                told = self.climbing(batch.objective)
                return bpgd(model, x, y, radius, bisections=bisections, clean_logits=clean_logits, **told)

        return self.search(attack)

    def worst(
        self,
        batch: Batch,
        radius: float | Tensor,
        start: Tensor | None = None,
        objective: Objective | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """The worst points within `radius`, one per sample of the batch; whoever asks counts."""

        def attack() -> Tensor:
            with self.attacked(batch) as model:
                told = self.climbing(objective or batch.objective)
                return pgd(model, batch.x, batch.y if y is None else y, radius, start=start, **told)

        return self.search(attack)

    def pgd(
        self,
        batch: Batch,
        radius: float | Tensor,
        start: Tensor | None = None,
        objective: Objective | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """The worst points within `radius`, one per sample of the batch; counted."""
        found = self.worst(batch, radius, start, objective, y)
        samples = len(batch.ids)
        right = int(batch.objective.correct(batch.clean.logits.detach(), batch.y).sum())
        self.tally.merge(Tally(samples, samples, right, 0, right * self.attack_steps))
        return found


def check_level(label: str, noise: float | None) -> float:
    """The noise level of a method that needs one. UserError without."""
    if noise is None:
        raise UserError(
            f"{label} needs a noise level: give --noise-max, or for nnU-Net use a trainer like nnUNetTrainer{label}5."
        )
    return noise


def mixed(clean: Pass, noisy: Pass, beta: float) -> Tensor:
    """(1 - beta) l(x) + beta l(x'), means over the batch. A clean loss of weight 0 would still cost its backward pass:
    it is left out."""
    return noisy.loss() if beta == 1 else (1 - beta) * clean.loss() + beta * noisy.loss()


def settings_of(method: type[Method]) -> list[str]:
    """Names of the settings a user can give; `norm` and `bounds` are those of the whole training."""
    return [one.name for one in fields(method) if one.name not in ("norm", "bounds")]


def rows_where(mask: Tensor) -> Tensor:
    """Indices of the True entries, (M,)."""
    return torch.nonzero(mask).squeeze(1)


def to_device(numbers: Tensor, batch: Batch) -> Tensor:
    """A small tensor of the host beside the images of the batch; the host does not wait for the device."""
    return numbers.to(batch.x.device, non_blocking=True)


def to_host(*columns: Tensor) -> list[Tensor]:
    """Numbers (N,) per sample, float64 on the host, where margins are: in one transfer, for the host waits for each.
    A device need not have float64."""
    return list(torch.stack([column.float() for column in columns]).cpu().double())
