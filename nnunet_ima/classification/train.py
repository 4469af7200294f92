"""Training a classifier, by the same methods as segmentation."""

import csv
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.objective import CrossEntropy
from nnunet_ima.attacks.precision import attack_precision, training_pass_serves
from nnunet_ima.classification.data import Images
from nnunet_ima.classification.model import Classifier, build
from nnunet_ima.classification.settings import Settings
from nnunet_ima.errors import UserError, first_line
from nnunet_ima.files import remove_leftovers, replacing
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.averaging import Average
from nnunet_ima.methods.budget import Budget
from nnunet_ima.methods.cost import PLAIN_STEP
from nnunet_ima.methods.history import History
from nnunet_ima.methods.method import Run, Tally
from nnunet_ima.methods.optimizer_steps import steps_of
from nnunet_ima.methods.weight_noise import weight_noise
from nnunet_ima.plots import two_panels


@dataclass
class ClassificationPass:
    """See `methods.method.Pass`: logits (N, classes) and their labels."""

    logits: Tensor
    y: Tensor

    def loss(self) -> Tensor:
        return functional.cross_entropy(self.logits.float(), self.y)

    def losses(self) -> Tensor:
        return functional.cross_entropy(self.logits.float(), self.y, reduction="none")


@dataclass
class ClassificationBatch:
    """See `methods.method.Batch`. shares: whether the training pass can serve attacks as their first iterate."""

    x: Tensor
    y: Tensor
    ids: Sequence[Hashable]
    model: nn.Module
    open_precision: Callable[[], AbstractContextManager[object]] = nullcontext
    shares: bool = True

    def __post_init__(self) -> None:
        self.objective = CrossEntropy()
        self.x = self.x.requires_grad_(self.shares)
        self.clean = ClassificationPass(self.model(self.x), self.y)
        self.shared_logits = self.clean.logits if self.shares else None

    @contextmanager
    def attacked(self) -> Iterator[Model]:
        with frozen(self.model), self.open_precision():
            yield self.model

    def forward(self, x: Tensor, rows: Tensor | None = None) -> ClassificationPass:
        return ClassificationPass(self.model(x.detach()), self.y if rows is None else self.y[rows])


def build_optimizer(settings: Settings, model: Classifier) -> torch.optim.Optimizer:
    """The paper's optimiser, or the one of the settings."""
    name = settings.optimizer or ("adamw" if settings.method == "ce" else "adam")
    rate = {} if settings.learning_rate is None else {"lr": settings.learning_rate}
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=rate.get("lr", 0.1), momentum=0.9)
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(model.parameters(), **rate)


@dataclass
class Training:
    """A run: its state, and what it writes to `folder`. The same seed gives the same result on the CPU, whether the
    run was interrupted or not."""

    settings: Settings
    folder: Path
    train: Images
    validation: Images
    classes: list[str]
    device: torch.device
    epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = build(len(self.classes), self.settings.channels, self.settings.seed).to(self.device)
        self.optimizer = build_optimizer(self.settings, self.model)
        self.method = self.settings.build()
        self.budget = None if self.settings.budget is None else Budget(self.settings.budget, self.settings.epochs)
        drawn = self._steps() * self.settings.batch_size
        seen = min(1.0, drawn / len(self.train))
        self.method.begin(Run(self.train.names, self.settings.epochs, seen, tuple(self.train.x.shape[1:])))
        self.store = self.method.store if isinstance(self.method, Adaptive) else None
        self.history = History()
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.scaler = torch.amp.GradScaler(enabled=self.device.type == "cuda")
        self.average = Average(self.model, self.settings.ema) if self.settings.ema else None
        self.best = -1.0

    def start_from(self, file: Path) -> None:
        """Take the weights of another run's checkpoint; those of the last layer only where the classes are the same,
        for then its answers are. UserError for one of another network."""
        state = read_checkpoint(file, "--pretrained")
        weights = state["model"]
        if state["classes"] != self.classes:
            print(f"{file} knows other classes ({', '.join(state['classes'])}): the last layer starts anew.")
            weights = {name: value for name, value in weights.items() if not name.startswith("network.fc.")}
        try:
            self.model.load_state_dict(self.model.state_dict() | weights)
            if self.average is not None:
                self.average = Average(self.model, self.settings.ema)
        except RuntimeError as error:
            raise UserError(f"--pretrained {file} is of another network: give one with the same --channels.") from error

    def run(self) -> None:
        """All epochs that are left; a checkpoint after each."""
        remove_leftovers(self.folder)
        while self.epoch < self.settings.epochs:
            started = perf_counter()
            self.method.start_epoch(self.epoch / self.settings.epochs)
            steps = self._steps()
            with self._live_weights():
                loss = self._train_epoch(steps)
            tally = self.method.end_epoch()
            accuracy = self._validate()
            self._note(loss, accuracy, tally, steps, perf_counter() - started)
            self.epoch += 1
            if accuracy >= self.best:
                self.best = accuracy
                self._save("checkpoint_best.pth")
            self._save("checkpoint_latest.pth")
            self._write_figures()
        self._save("checkpoint_final.pth")
        (self.folder / "checkpoint_latest.pth").unlink(missing_ok=True)

    def _note(self, loss: float, accuracy: float, tally: Tally, steps: int, seconds: float) -> None:
        """One row of what the epoch showed and cost."""
        shares = tally.shares()
        if self.method.is_off:
            shares["cost"] = self._usual_cost
        forwards = steps * shares["cost"]
        if self.budget is not None:
            self.budget.spend(steps, shares["cost"])
        before = self.rows[-1].get("forwards", 0.0) if self.rows else 0.0
        row = {"epoch": self.epoch, "loss": loss, "validation_accuracy": accuracy, **shares}
        self.rows.append(row | {"steps": steps, "forwards": before + forwards, "seconds": seconds})
        if self.store is not None:
            self.history.add(self.epoch, tally, self.store, seconds, steps)

    @property
    def _usual_cost(self) -> float:
        """Of a step without attacks, in forwards of its batch."""
        return PLAIN_STEP * (2 if self.settings.awp else 1)

    @contextmanager
    def _live_weights(self) -> Iterator[None]:
        """Within the model has the weights that are trained, outside of it their average, where one is wanted."""
        if self.average is None:
            yield
            return
        self.average.hide()
        yield
        self.average.show()

    def _steps(self) -> int:
        """Of the coming epoch."""
        if self.budget is None:
            return math.ceil(len(self.train) / self.settings.batch_size)
        return self.budget.steps(self.epoch, self.rows[-1]["cost"] if self.rows else self.settings.usual_cost)

    def _batches(self, steps: int) -> Iterator[Tensor]:
        """The rows of each batch: every image once, then once again in another order, until there are enough."""
        while steps > 0:
            order = torch.randperm(len(self.train), generator=self.generator)
            for rows in order.split(self.settings.batch_size)[:steps]:  # type: ignore[no-untyped-call]
                steps -= 1
                yield rows

    def _train_epoch(self, steps: int) -> float:
        """The mean loss of the samples drawn."""
        self.model.train()
        total, drawn = 0.0, 0
        bar = tqdm(
            self._batches(steps),
            f"Epoch {self.epoch + 1}/{self.settings.epochs}",
            steps,
            unit="batch",
            leave=False,
            dynamic_ncols=True,
        )
        for rows in bar:
            x, y = self.train.x[rows].to(self.device), self.train.y[rows].to(self.device)
            total += self._step(x, y, [self.train.names[row] for row in rows.tolist()]) * len(rows)
            drawn += len(rows)
            bar.set_postfix(loss=f"{total / drawn:.3f}")
        return total / drawn

    def _step(self, x: Tensor, y: Tensor, ids: list[str]) -> float:
        """One optimiser step on a batch and its noisy twins; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        self.method.start_step()
        loss = self._loss(x, y, ids)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        again = partial(self._loss, x, y, ids, repeated=True)
        noise = weight_noise(self.optimizer, self.settings.awp, again, self.scaler.get_scale)
        with steps_of(self.optimizer) as taken, noise:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.end_step(counts=bool(taken))
        if self.average is not None and taken:
            self.average.update()
        return float(loss.detach())

    def _loss(self, x: Tensor, y: Tensor, ids: list[str], repeated: bool = False) -> Tensor:
        """The method's loss of a step; repeated: once more, on the noise found before."""
        with self._autocast():
            serves = training_pass_serves(self.device, self.settings.attack_precision)
            shares = serves and not self.method.is_off
            batch = ClassificationBatch(x, y, ids, self.model, self._attack_precision, shares)
            if self.method.is_off:
                return batch.clean.loss()
            return self.method.repeated_loss(batch) if repeated else self.method.step_loss(batch)

    def _autocast(self) -> Any:
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def _attack_precision(self) -> AbstractContextManager[object]:
        return attack_precision(self.device, self.settings.attack_precision)

    def _validate(self) -> float:
        self.model.eval()
        right = 0
        with torch.no_grad(), self._autocast():
            for start in range(0, len(self.validation), 64):
                x, y = (part[start : start + 64].to(self.device) for part in (self.validation.x, self.validation.y))
                right += int((self.model(x).argmax(1) == y).sum())
        return right / len(self.validation)

    def state(self) -> dict[str, Any]:
        """Everything the next epoch depends on, as tensors and plain Python."""
        state = {
            "epoch": self.epoch,
            "best": self.best,
            "rows": self.rows,
            "classes": self.classes,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }
        if self.store is not None:
            state |= {"store": self.method.state(), "history": self.history.state()}
        if self.average is not None:
            state |= {"average": self.average.state()}
        if self.budget is not None:
            state |= {"spent": self.budget.spent}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.best, self.rows = state["epoch"], state["best"], state["rows"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])
        if self.store is not None:
            self.method.load_state(state["store"])
            self.history.load_state(state["history"])
        if self.average is not None:
            self.average.load_state(state["average"])
        if self.budget is not None:
            self.budget.spent = state["spent"]

    def _save(self, name: str) -> None:
        with replacing(self.folder / name) as path:
            torch.save(self.state(), path)

    def _write_figures(self) -> None:
        """`log.csv`, `progress.png` and, with margins, `margins.csv` and `margins.png`."""
        with replacing(self.folder / "log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]))
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in self.rows)
        with two_panels(self.folder / "progress.png") as panels:
            for axes, (key, title) in zip(
                panels, (("loss", "training loss"), ("validation_accuracy", "accuracy")), strict=True
            ):
                axes.plot([row["epoch"] for row in self.rows], [row[key] for row in self.rows])
                axes.set(xlabel="epoch", title=title)
                axes.grid(alpha=0.3)
        if self.store is not None:
            self.history.write(self.folder, self.store)


def read_checkpoint(file: Path, flag: str = "-chk") -> dict[str, Any]:
    """The state in a checkpoint; only tensors and plain Python are read, no code is run. UserError for one that is
    missing, damaged or not ours, which names the flag to choose another."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: train first, or name another with {flag}.")
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if not {"model", "classes", "epoch"} <= state.keys():
            raise KeyError("it holds no classifier")
    except Exception as error:
        raise UserError(f"{file} cannot be loaded ({first_line(error)}): name another with {flag}.") from error
    return state
