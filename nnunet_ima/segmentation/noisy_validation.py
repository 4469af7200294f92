"""Dice of nnU-Net's validation batches under a short attack, and which checkpoints are kept for it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.frozen import Model
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.files import replacing
from nnunet_ima.metrics.indices import total_voxel_dice_index
from nnunet_ima.plots import append_below, two_panels
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective

STEPS = 10
"""Of the attack: it compares epochs and makes no claim."""
WEIGHT_OF_THE_LAST = 0.1
"""Of the newest epoch in a running mean: nnU-Net's own, which it chooses `checkpoint_best.pth` by."""


def running(values: Sequence[float]) -> list[float]:
    """The running mean after each epoch. A few validation batches say little about one epoch."""
    return list(accumulate(values, lambda mean, value: (1 - WEIGHT_OF_THE_LAST) * mean + WEIGHT_OF_THE_LAST * value))


def rung_of(epoch: int, epochs: int, rungs: int) -> int | None:
    """The number of the rung of a ladder of checkpoints that ends with this epoch, from 1; None where none does."""
    before, now = (done * rungs // epochs for done in (epoch, epoch + 1))
    return now if now > before else None


@dataclass
class NoisyValidation:
    """level: of the attack, in `norm`. clean_loss: points of pseudo Dice (in percent) that the most robust checkpoint
    may be below the best epoch without noise, both in their running means.

    rows: of each epoch pseudo Dice without and with noise (0 to 1) and the mean margin, if there are margins.
    """

    level: float
    norm: Norm
    clean_loss: float = 10.0
    rows: list[dict[str, float]] = field(default_factory=list)
    counts: Tensor | None = None
    kept: int | None = None
    """The epoch of `checkpoint_best_robust.pth`."""

    def add(self, network: Model, objective: SegmentationObjective, x: Tensor, y: Tensor) -> None:
        """Attack a batch, and count; network: frozen, logits only."""
        worst = pgd(network, x, y, self.level, steps=STEPS, random_start=False, objective=objective, norm=self.norm)
        with torch.no_grad():
            found = objective.counts(network(worst), y).sum(0)
        self.counts = found if self.counts is None else self.counts + found

    def counted(self) -> Tensor:
        """(classes, 3) TP, FP, FN of the epoch's batches, on the host."""
        assert self.counts is not None, "nnU-Net validates on at least one batch"
        return self.counts.cpu()

    def end_epoch(self, epoch: int, clean: float, counts: list[Tensor], margin: float | None) -> bool:
        """Note an epoch, of whose batches all processes have counted `counts`. Whether its checkpoint is now the most
        robust: of the largest running mean under noise among the epochs that lose at most `clean_loss` without."""
        noisy = total_voxel_dice_index(torch.stack(counts).sum(0)[None].numpy())
        margins = {} if margin is None else {"margin_mean": margin}
        self.rows.append({"epoch": epoch, "clean": clean, "noisy": noisy, **margins})
        self.counts = None
        cleans, noisies = self.means()
        least = max(cleans) - self.clean_loss / 100
        kept = next((number for number, row in enumerate(self.rows) if row["epoch"] == self.kept), None)
        best = cleans[-1] >= least and (kept is None or cleans[kept] < least or noisies[-1] > noisies[kept])
        if best:
            self.kept = epoch
        return best

    def means(self) -> tuple[list[float], list[float]]:
        """The running means without and with noise after each epoch."""
        clean, noisy = (running([row[what] for row in self.rows]) for what in ("clean", "noisy"))
        return clean, noisy

    def line(self) -> str:
        row = self.rows[-1]
        return f"pseudo Dice at noise {self.level:g} {100 * row['noisy']:.1f} %, without {100 * row['clean']:.1f} %"

    def state(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows], "kept": self.kept}

    def load_state(self, state: dict[str, Any]) -> None:
        self.rows, self.kept = [dict(row) for row in state["rows"]], state["kept"]

    def write(self, folder: Path) -> None:
        """`validation.csv`, and `validation.png`: by the epoch, and by the margin that was reached."""
        with replacing(folder / "validation.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*self.rows[-1], "clean_running", "noisy_running", "kept"])
            writer.writeheader()
            for row, clean, noisy in zip(self.rows, *self.means(), strict=True):
                values = row | {"clean_running": clean, "noisy_running": noisy}
                shown = {key: f"{value:.6g}" for key, value in values.items()}
                writer.writerow(shown | {"kept": int(row["epoch"] == self.kept)})
        with two_panels(folder / "validation.png", sharey=True) as panels:
            for axes, key, label in zip(panels, ("epoch", "margin_mean"), ("epoch", "mean margin"), strict=True):
                if key not in self.rows[0]:
                    axes.set_axis_off()
                    continue
                self.draw(axes, key, label)
            panels[0].legend()

    def draw(self, axes: Any, key: str = "epoch", label: str = "epoch", linewidth: float | None = None) -> None:
        """Pseudo Dice without and with noise against the column `key` of the rows."""
        for what, name in (("clean", "no noise"), ("noisy", f"noise {self.level:g}")):
            values, at = [row[what] for row in self.rows], [row[key] for row in self.rows]
            (line,) = axes.plot(at, values, linestyle=":", linewidth=linewidth, label=name)
            axes.plot(at, running(values), color=line.get_color(), linewidth=linewidth, label=f"{name} (mov. avg.)")
        for row in self.rows:
            if row["epoch"] == self.kept:
                mark = "checkpoint_best_robust.pth"
                axes.axvline(row[key], color="grey", linestyle=":", linewidth=linewidth, label=mark)
        axes.set(xlabel=label, ylabel="pseudo Dice of the validation batches")
        axes.grid(alpha=0.3)

    def append_to_progress(self, folder: Path) -> None:
        """Put the Dice under noise below the panels of nnU-Net's `progress.png`, in its style."""

        def draw(axes: Any) -> None:
            self.draw(axes, linewidth=4)
            axes.set_ylabel("pseudo dice")
            axes.legend(loc=(0, 1))

        append_below(folder / "progress.png", draw, height=18)
