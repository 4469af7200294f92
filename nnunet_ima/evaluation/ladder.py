"""The checkpoints that a training kept on its way, measured: how far shall margins grow (IMA paper, App. C.2)?"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.plots import new_figure, save
from nnunet_ima.segmentation.cases.models import TrainedModel

USUAL_LOSS = 1.0
"""Points of Dice without noise that may be lost where nothing else is said."""


@dataclass(frozen=True)
class Rung:
    """file: name of the checkpoint. epoch: after which it was kept, from 0. margin: mean of the margins then, NaN for
    methods without. clean, noisy: ADI in percent without noise and at each level."""

    file: str
    epoch: int
    margin: float
    clean: float = math.nan
    noisy: tuple[float, ...] = ()

    @property
    def mean_noisy(self) -> float:
        return sum(self.noisy) / len(self.noisy)

    def measured(self, clean: float, noisy: Sequence[float]) -> "Rung":
        return replace(self, clean=clean, noisy=tuple(noisy))


def rungs_of(model: TrainedModel) -> Iterator[tuple[Rung, dict[str, Tensor]]]:
    """The checkpoints of the ladder in the model's folder with their weights, from the first on."""
    for file in sorted(model.fold_folder.glob("checkpoint_ladder_*.pth")):
        check_checkpoint(file)
        content = torch.load(file, map_location="cpu", weights_only=False)
        margins = content.get("ima", {}).get("store", {}).get("margins")
        margin = math.nan if margins is None else float(margins.mean())
        yield Rung(file.name, int(content["current_epoch"]) - 1, margin), content["network_weights"]


def chosen(rungs: Sequence[Rung], keep: float | None) -> Rung:
    """The most robust in the mean over the levels among those whose ADI without noise is `keep` or more; None: at most
    a point below the best. UserError where there is none."""
    best = max(rungs, key=lambda rung: rung.clean)
    least = best.clean - USUAL_LOSS if keep is None else keep
    fits = [rung for rung in rungs if rung.clean >= least]
    if not fits:
        raise UserError(
            f"--keep {least:g}: no checkpoint has so much without noise, the best, {best.file}, has {best.clean:.1f}; "
            "give that or less."
        )
    return max(fits, key=lambda rung: rung.mean_noisy)


def head(levels: Sequence[float]) -> str:
    """Over the rows of the table."""
    return "\n  epoch  margin       0  " + "  ".join(f"{level:6g}" for level in levels) + "    mean of noisy"


def line(rung: Rung) -> str:
    """A row of the table."""
    noisy = "  ".join(f"{value:6.1f}" for value in rung.noisy)
    return f"  {rung.epoch:5d}  {rung.margin:6.2f}  {rung.clean:6.1f}  {noisy}  {rung.mean_noisy:6.1f}"


def write(folder: Path, rungs: Sequence[Rung], choice: Rung, levels: Sequence[float]) -> None:
    """`ladder.csv`, `ladder.png` and `.svg`."""
    with replacing(folder / "ladder.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["checkpoint", "epoch", "margin", "0", *(f"{level:g}" for level in levels), "chosen"])
        for rung in rungs:
            values = (f"{value:.3f}" for value in (rung.margin, rung.clean, *rung.noisy))
            writer.writerow([rung.file, rung.epoch, *values, int(rung == choice)])
    save(picture(rungs, choice, levels), folder, "ladder")


def picture(rungs: Sequence[Rung], choice: Rung, levels: Sequence[float]) -> Any:
    """ADI at each level against the margin that was reached; against the epoch for methods without margins."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    by_margin = all(math.isfinite(rung.margin) for rung in rungs)
    places = {rung: rung.margin if by_margin else float(rung.epoch) for rung in rungs}
    axes.plot(list(places.values()), [rung.clean for rung in rungs], marker="o", label="0")
    for number, level in enumerate(levels):
        axes.plot(list(places.values()), [rung.noisy[number] for rung in rungs], marker="o", label=f"{level:g}")
    axes.axvline(places[choice], color="grey", linestyle=":", label="chosen")
    axes.set(xlabel="mean margin (noise level)" if by_margin else "epoch", ylabel="ADI (%)")
    axes.legend(title="noise level", fontsize=8)
    axes.grid(alpha=0.3)
    return figure
