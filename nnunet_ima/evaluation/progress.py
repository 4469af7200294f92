"""What a running sweep shows: a bar that counts slices, and a table of figures that fills as they arrive."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_ima.evaluation.noises import Noise
from nnunet_ima.metrics.indices import ADI

ROWS = 20
"""At most so many rows, however many batches there are."""
CELL = 9
BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """plan: noises with their levels; sizes: number of slices in each batch; share: of the whole work that this process
    does or finds done; shown: whether anything is printed; unit: "slices" or "volumes".

    The bar moves with the forwards that a piece of work costs, so that its rest of time holds although levels differ.
    """

    def __init__(
        self,
        plan: Sequence[tuple[Noise, Sequence[float]]],
        sizes: Sequence[int],
        share: float,
        shown: bool,
        unit: str = "slices",
    ) -> None:
        self.unit = unit
        self.attacks = [(noise.name, levels) for noise, levels in plan if noise.family == "attack"]
        self.slices = sum(sizes)
        self.counts: dict[tuple[str, float], list[Any]] = defaultdict(list)
        self.printed = 0
        self.shown = shown
        self.bar = tqdm(total=self.slices * share, bar_format=BAR, unit=unit, dynamic_ncols=True, disable=not shown)

    def known(self, noise: Noise, level: float, record: Mapping[str, Any], share: float) -> None:
        """A piece of work that an earlier run has done. share: of the whole work."""
        self._note(noise, level, record)
        self.bar.update(self.slices * share)

    def done(self, noise: Noise, level: float, record: Mapping[str, Any], share: float) -> None:
        """A piece of work that has been done now."""
        figure = self._note(noise, level, record)
        if figure is not None:
            self.bar.set_postfix_str(f"{noise.name} {level:g}: ADI {figure:.1f} %", refresh=False)
        self.bar.update(self.slices * share)

    def batch_done(self, last: bool = False) -> None:
        """Print a row, unless the last one is not long ago."""
        rows = [(name, [self._figure(name, level) for level in levels]) for name, levels in self.attacks]
        # Of several processes each sees its own share: a level may be another's.
        seen = min((len(counts) for counts in self.counts.values() if counts), default=0)
        if not self.shown or seen == self.printed or (not last and seen - self.printed < self.slices / ROWS):
            return
        width = max((len(name) for name, _ in self.attacks), default=0)
        if not self.printed:
            tqdm.write(f"ADI (%) so far: mean Dice of the {self.unit}, by noise level")
            tqdm.write(
                self.unit.rjust(CELL) + " " * (width + 2) + "".join(f"{level:>{CELL}g}" for level in self.levels)
            )
        for number, (name, figures) in enumerate(rows):
            cells = "".join(f"{'-' if figure is None else format(figure, '.2f'):>{CELL}}" for figure in figures)
            tqdm.write(f"{seen if number == 0 else '':>{CELL}}  {name.ljust(width)}{cells}")
        # A log file shall show them now.
        sys.stdout.flush()
        self.printed = seen

    @property
    def levels(self) -> Sequence[float]:
        return self.attacks[0][1] if self.attacks else []

    def close(self) -> None:
        self.batch_done(last=True)
        self.bar.close()

    def _note(self, noise: Noise, level: float, record: Mapping[str, Any]) -> float | None:
        if noise.family != "attack":
            return None
        self.counts[noise.name, level].extend(record["counts"])
        return self._figure(noise.name, level)

    def _figure(self, name: str, level: float) -> float | None:
        """ADI in percent over the slices so far, None where none has a Dice yet."""
        counts = np.asarray(self.counts[name, level])
        figure = 100 * float(ADI(counts)) if len(counts) else np.nan
        return figure if np.isfinite(figure) else None
