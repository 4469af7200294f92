"""What the attacks of a training showed, epoch by epoch: `attacks.csv`, or `margins.csv` and `margins.png`."""

import csv
import math
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.files import replacing
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Tally
from nnunet_ima.plots import two_panels

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class History:
    """One row per epoch. Travels in the checkpoint, so that a continued training continues its files too."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, epoch: int, tally: Tally, store: MarginStore | None, seconds: float, steps: int) -> None:
        """Shares of the epoch, its training seconds and steps, what the training has cost so far in forwards of a
        batch, and where the margins stand after it, if there are any."""
        shares = tally.shares()
        before = self.rows[-1].get("forwards", 0.0) if self.rows else 0.0
        forwards = before + steps * shares["cost"]
        row = {"epoch": epoch, **shares, "steps": steps, "forwards": forwards, "seconds": seconds}
        if store is not None:
            quantiles = torch.quantile(store.margins, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
            row |= {
                "margin_mean": store.margins.mean().item(),
                **{f"margin_q{round(100 * q):02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
                "visited": (store.visits > 0).double().mean().item(),
            }
        self.rows.append(row)

    def last_line(self) -> str:
        row = self.rows[-1]
        margins = f"margin {row['margin_mean']:.3f} (median {row['margin_q50']:.3f}), " if "margin_mean" in row else ""
        return (
            f"correct {row['correct']:.1%}, crossed {row['crossed']:.1%}, {margins}"
            f"{row['attack_steps']:.1f} attack steps, {row['attack_seconds']:.1f} s in attacks, "
            f"{row['cost']:.1f} forwards a step"
        )

    def state(self) -> list[dict[str, float]]:
        return [dict(row) for row in self.rows]

    def load_state(self, rows: list[dict[str, float]]) -> None:
        self.rows = [dict(row) for row in rows]

    def write(self, folder: Path, store: MarginStore | None) -> None:
        """The files, each replaced as a whole."""
        name = "attacks.csv" if store is None else "margins.csv"
        with replacing(folder / name) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]))
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in self.rows)
        if store is not None:
            plot_margins(self.rows, store, folder / "margins.png")


def time_left(epoch_seconds: float, epochs: int) -> str:
    """How long the rest of a training takes if its epochs go on like the last one."""
    minutes = round(epoch_seconds * epochs / 60)
    return f"{epochs} epoch{'' if epochs == 1 else 's'} left, about {minutes // 60} h {minutes % 60:02d} min"


def plot_margins(rows: list[dict[str, Any]], store: MarginStore, path: Path) -> None:
    """Histogram of the margins now, and their growth (the paper's Figs. 7 and 10).

    The bulk of the histogram tells which fixed noise level a vanilla adversarial training should use.
    """
    with two_panels(path) as (histogram, growth):
        visited = store.visits > 0
        largest = store.maximum if math.isfinite(store.maximum) else max(store.margins.max().item(), 1e-6)
        edges = torch.linspace(0, largest, 41, dtype=torch.float64).tolist()
        parts = [store.margins[visited].tolist(), store.margins[~visited].tolist()]
        histogram.hist(parts, edges, stacked=True, label=["seen", "not seen yet"], color=["tab:blue", "lightgrey"])
        histogram.set(
            xlabel="margin (noise level)", ylabel="training samples", title=f"Margins after epoch {rows[-1]['epoch']}"
        )
        histogram.legend()
        epochs = [row["epoch"] for row in rows]
        for low, high, shade in (("margin_q05", "margin_q95", 0.2), ("margin_q25", "margin_q75", 0.35)):
            growth.fill_between(
                epochs,
                [row[low] for row in rows],
                [row[high] for row in rows],
                color="tab:blue",
                alpha=shade,
                label=f"{int(low[-2:])} to {high[-2:]} %",
            )
        growth.plot(epochs, [row["margin_q50"] for row in rows], color="tab:blue", label="median")
        if math.isfinite(store.maximum):
            growth.axhline(store.maximum, color="grey", linestyle=":", label="largest allowed")
        growth.set(xlabel="epoch", ylabel="margin (noise level)", title="Growth of the margins")
        growth.legend()
