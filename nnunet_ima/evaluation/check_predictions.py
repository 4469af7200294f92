"""Which predictions should a human check? Cases in the order of scores that need no reference; with references also
how well each score finds the bad ones, without noise and under corruptions."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ima.evaluation.corruptions import corruption
from nnunet_ima.evaluation.evaluate import Subject
from nnunet_ima.evaluation.journal import Journal, digest
from nnunet_ima.evaluation.panel import Panel
from nnunet_ima.evaluation.summary import finite
from nnunet_ima.evaluation.unreferenced import SCORES, Search, case_dice, corrupted, examined, scores_of
from nnunet_ima.files import replacing
from nnunet_ima.metrics.risk_coverage import ideal_aurc, judged, random_aurc
from nnunet_ima.metrics.statistics import Interval

CLEAN = ("none", 0)
Condition = tuple[str, int]
"""Corruption and its severity."""


@dataclass(frozen=True)
class Row:
    """A case under a corruption. scores: by name; risk: 100 - Dice in percent, None without a reference; found: number
    of slices in which the model finds something; lasting: whether half of the slices looked at last to the end of the
    search for the smallest noise."""

    case: str
    condition: Condition
    scores: dict[str, float]
    risk: float | None
    found: int
    lasting: bool = False


def check(
    subject: Subject,
    panel: Panel,
    conditions: Sequence[Condition],
    batch_size: int,
    search: Search | None,
    judge: bool,
    journal: Journal,
) -> list[Row]:
    """Every case under every condition. judge: whether there are references. What the journal holds is not computed
    again."""
    by_case = {case: list(places) for case, places in groupby(subject.slices.places, key=lambda place: place.case)}
    seed, rows = subject.settings.seed, []
    bar = tqdm(total=len(by_case) * len(conditions), desc="Cases", unit="case", dynamic_ncols=True)
    for number, (case, places) in enumerate(by_case.items()):
        for name, severity in conditions:
            noise = None if severity == 0 else corruption(name, seed)
            key = (f"{name} {digest(noise.settings if noise else None)}", float(severity), number)
            if key not in journal.found:
                slices = subject.slices.read(places)
                if noise is not None:
                    slices = corrupted(panel, slices, noise, severity, seed)
                journal.add(key, examined(panel, slices, batch_size, search))
            rows.append(_row(case, (name, severity), journal.found[key], search, judge))
            bar.update()
    bar.close()
    return rows


def _row(case: str, condition: Condition, record: dict[str, Any], search: Search | None, judge: bool) -> Row:
    scores = scores_of(record, search)
    risk = round(100 * (1 - case_dice(record["reference"])), 5) if judge else None
    lasting = search is not None and scores["smallest_noise"] >= search.largest
    return Row(case, condition, scores, risk, record["found"], lasting)


def ordered(rows: Sequence[Row], by: str) -> list[Row]:
    """The rows of one condition, the likeliest wrong first: by this score, then by the others, then by name."""
    names = [by, *(name for name in SCORES if name != by)]
    return sorted(rows, key=lambda row: (*(row.scores[name] for name in names if name in row.scores), row.case))


def conditions_of(rows: Sequence[Row]) -> list[Condition]:
    return list(dict.fromkeys(row.condition for row in rows))


def judgements(rows: Sequence[Row], seed: int = 0) -> list[dict[str, Any]]:
    """AURC of each score, of a random and of the ideal order under each condition, and under all together where there
    are several. Empty without references, and for a single case, which has no order."""
    if any(row.risk is None for row in rows) or len({row.case for row in rows}) < 2:
        return []
    parts = [(condition, [row for row in rows if row.condition == condition]) for condition in conditions_of(rows)]
    found = [{"corruption": name, "severity": severity, **_judged(own, seed)} for (name, severity), own in parts]
    return (
        [*found, {"corruption": "all together", "severity": None, **_judged(rows, seed)}] if len(parts) > 1 else found
    )


def _judged(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    risks, cases = [row.risk or 0.0 for row in rows], [row.case for row in rows]
    random, ideal = random_aurc(risks), ideal_aurc(risks)
    scores = {}
    for name in rows[0].scores:
        found = judged([row.scores[name] for row in rows], risks, cases, seed)
        # The share of what the ideal order gains.
        share = 100 * found.gain.value / (random - ideal) if random > ideal else float("nan")
        scores[name] = {
            "aurc": round(found.aurc.value, 4),
            "aurc_interval": _limits(found.aurc),
            "gain": round(found.gain.value, 4),
            "gain_interval": _limits(found.gain),
            "share_of_ideal": finite(round(share, 2)),
        }
    figures = {"random": round(random, 4), "ideal": round(ideal, 4)}
    return {"cases": len(set(cases)), "mean_dice": round(100 - random, 4), **figures, "scores": scores}


def _limits(interval: Interval) -> list[float | None]:
    return [finite(round(interval.low, 4)), finite(round(interval.high, 4))]


def write_cases(folder: Path, rows: Sequence[Row], by: str) -> None:
    """`cases.csv`: per condition the cases in the order in which they should be checked."""
    with replacing(folder / "cases.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["corruption", "severity", "rank", "case", *SCORES, "slices_found", "dice", "risk"])
        for condition in conditions_of(rows):
            own = ordered([row for row in rows if row.condition == condition], by)
            for rank, row in enumerate(own, 1):
                scores = [f"{row.scores[name]:g}" if name in row.scores else "" for name in SCORES]
                dice = ["", ""] if row.risk is None else [f"{100 - row.risk:.3f}", f"{row.risk:.3f}"]
                writer.writerow([*condition, rank, row.case, *scores, row.found, *dice])
