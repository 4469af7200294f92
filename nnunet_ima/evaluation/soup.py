"""Weights between those of a plain model and of one that was hardened from it (Croce et al., CVPR 2023).

Along the straight line from one to the other Dice changes smoothly, as long as the second has grown out of the first:
one dial from clean to robust, without another training.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.plots import new_figure, save

SHARES = tuple(number / 8 for number in range(9))
"""Of the hardened model, at which mixes are measured."""
LARGEST_BARRIER = 5.0
"""By so many points the worse end may be above the middle; mixes of unrelated models fall to nothing."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Mix:
    """share: of the hardened model, 0 to 1. clean: ADI (or accuracy) in percent without noise; noisy: at each level."""

    share: float
    clean: float
    noisy: tuple[float, ...]

    @property
    def mean_noisy(self) -> float:
        return sum(self.noisy) / len(self.noisy)


def check_same_network(plain: Weights, hardened: Weights, names: tuple[str, str]) -> None:
    """UserError where the weights are those of different networks."""
    shapes = [{name: tuple(value.shape) for name, value in weights.items()} for weights in (plain, hardened)]
    if shapes[0] != shapes[1]:
        different = sorted(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise UserError(
            f"{names[0]} and {names[1]} are different networks (they differ in {different[0]}): give the checkpoint "
            "that the model was hardened from."
        )


def mixed_weights(plain: Weights, hardened: Weights, share: float) -> dict[str, Tensor]:
    """(1 - share) * plain + share * hardened; whole numbers, like counts of batches, are the hardened model's."""
    return {
        name: torch.lerp(plain[name].float(), value.float(), share).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in hardened.items()
    }


def measured(measure: Callable[[float], Mix], names: tuple[str, str], tell: Callable[[Mix], None]) -> list[Mix]:
    """The mixes at all shares, each told as soon as it is known. The ends and the middle come first: UserError where
    the middle is far below both ends."""
    ends = [measure(share) for share in (0.0, 1.0, 0.5)]
    for mix in ends:
        tell(mix)
    low = min(ends[0].clean, ends[1].clean)
    if ends[2].clean < low - LARGEST_BARRIER:
        raise UserError(
            f"{names[1]} was not hardened from {names[0]}: half of each gives {ends[2].clean:.1f} without noise, where "
            f"the ends have {ends[0].clean:.1f} and {ends[1].clean:.1f}; give the checkpoint it was hardened from."
        )
    found = {mix.share: mix for mix in ends}
    for share in SHARES:
        if share not in found:
            found[share] = measure(share)
            tell(found[share])
    return [found[share] for share in SHARES]


def chosen(mixes: Sequence[Mix], clean_loss: float, share: float | None = None) -> Mix:
    """The mix at `share`, or the most robust in the mean over the levels among those that lose at most `clean_loss`
    points without noise against the plain model. UserError for a share that is not among them."""
    if share is not None:
        exact = [mix for mix in mixes if mix.share == share]
        if not exact:
            raise UserError(f"--share {share:g} was not measured: give a multiple of 1/8 from 0 to 1, like 0.75.")
        return exact[0]
    least = mixes[0].clean - clean_loss
    return max((mix for mix in mixes if mix.clean >= least), key=lambda mix: (mix.mean_noisy, mix.share))


def line(mix: Mix) -> str:
    """A row of the table."""
    noisy = "  ".join(f"{value:6.1f}" for value in mix.noisy)
    return f"  {mix.share:5.3f}  {mix.clean:6.1f}  {noisy}  {mix.mean_noisy:6.1f}"


def head(levels: Sequence[float]) -> str:
    """Over the rows of the table."""
    return "  share       0  " + "  ".join(f"{level:6g}" for level in levels) + "    mean of noisy"


def write(folder: Path, mixes: Sequence[Mix], choice: Mix, levels: Sequence[float], what: str) -> None:
    """`soup.csv`, and the dial as a picture, `soup.png` and `.svg`. what: is measured, "ADI" or "accuracy"."""
    with replacing(folder / "soup.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["share", "0", *(f"{level:g}" for level in levels), "mean_of_noisy", "chosen"])
        for mix in mixes:
            values = (mix.clean, *mix.noisy, mix.mean_noisy)
            writer.writerow([f"{mix.share:g}", *(f"{value:.3f}" for value in values), int(mix == choice)])
    save(picture(mixes, choice, levels, what), folder, "soup")


def picture(mixes: Sequence[Mix], choice: Mix, levels: Sequence[float], what: str) -> Any:
    """Left: each level against the share. Right: without noise against the mean of the noisy levels."""
    figure = new_figure(10, 4)
    by_share, plane = figure.subplots(1, 2)
    shares = [mix.share for mix in mixes]
    by_share.plot(shares, [mix.clean for mix in mixes], marker="o", label="0")
    for number, level in enumerate(levels):
        by_share.plot(shares, [mix.noisy[number] for mix in mixes], marker="o", label=f"{level:g}")
    by_share.axvline(choice.share, color="grey", linestyle=":")
    by_share.set(xlabel="share of the hardened model", ylabel=f"{what} (%)")
    by_share.legend(title="noise level", fontsize=8)
    plane.plot([mix.clean for mix in mixes], [mix.mean_noisy for mix in mixes], marker="o", color="tab:blue")
    for mix in mixes:
        plane.annotate(f"{mix.share:g}", (mix.clean, mix.mean_noisy), textcoords="offset points", xytext=(5, 3), size=7)
    plane.plot(choice.clean, choice.mean_noisy, "o", markersize=12, fillstyle="none", color="tab:red", label="chosen")
    plane.set(xlabel=f"{what} without noise (%)", ylabel=f"mean {what} under noise (%)")
    plane.legend(fontsize=8)
    for axes in (by_share, plane):
        axes.grid(alpha=0.3)
    return figure
