"""At which noise does each slice fail? The smallest noise, slice by slice, and what it says of a model."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_ima.evaluation.evaluate import Choice, Subject
from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.noises import smallest_noise
from nnunet_ima.evaluation.summary import finite, number
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.files import replacing
from nnunet_ima.metrics.indices import FAILURE_THRESHOLD, slice_dice

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Profile = Mapping[str, Mapping[str, Sequence[Any]]]
"""By case: the numbers of its slices, and the smallest noise of each (None: more than the largest)."""


def smallest_noises(subject: Subject, choice: Choice, journal: Journal | None) -> dict[str, Any]:
    """The smallest noise of every slice up to the largest level of `choice`; see `figures`. forwards: what the search
    cost, see `forwards.counted`."""
    largest = max(choice.levels)
    noise = smallest_noise(subject.settings)
    plan = [(noise, [largest])]
    slices = subject.slices
    swept = sweep(
        subject.target, slices.places, plan, choice.batch_size, choice.settings.seed, journal, read=slices.read
    )
    found = swept.found[noise.name]
    still_right = ~(slice_dice(found.counts[0]) <= FAILURE_THRESHOLD)
    profile: dict[str, dict[str, list[Any]]] = {}
    for (case, row), size, right in zip(swept.slices, found.norms[0], still_right, strict=True):
        of_case = profile.setdefault(case, {"slices": [], "noise": []})
        of_case["slices"].append(row)
        of_case["noise"].append(None if right else round(float(size), 5))
    margins = [] if subject.model.ensemble else training_margins(subject.model.fold_folder / subject.model.checkpoint)
    return figures(profile, largest, margins) | {"forwards": finite(swept.found[noise.name].forwards)}


def figures(profile: Profile, largest: float, margins: Sequence[float] = ()) -> dict[str, Any]:
    """largest: where the search ended. median: the noise at which half of the slices fail, None above the largest; and
    other quantiles. failing: number of slices that fail without noise; lasting: of those that do not fail at all.
    profile: see `Profile`. training_margins: quantiles of the margins that the training left, where it has any."""
    values = _values(profile)
    quantiles = {f"{share:g}": _finite_quantile(values, share) for share in QUANTILES}
    told = {f"{share:g}": float(np.quantile(margins, share)) for share in QUANTILES} if len(margins) else None
    return {
        "largest": largest,
        "median": quantiles["0.5"],
        "quantiles": quantiles,
        "failing": int((values == 0).sum()),
        "lasting": int(np.isinf(values).sum()),
        "training_margins": told,
        "profile": profile,
    }


def pooled_smallest(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several folds, whose cases differ."""
    together = figures({case: one for part in parts for case, one in part["profile"].items()}, parts[0]["largest"])
    return together | {"forwards": finite(sum(number(part["forwards"]) for part in parts))}


def survival(profile: Profile, largest: float, points: int = 101) -> tuple[list[float], list[float]]:
    """Noise levels from 0 to the largest, and the share of slices in percent that are right with less noise than so."""
    values, levels = _values(profile), np.linspace(0, largest, points)
    return levels.tolist(), [100 * float((values > level).mean()) for level in levels]


def along_axis(profile: Profile, largest: float, parts: int = 10) -> tuple[list[float], list[float]]:
    """From the first to the last slice of a case (0 to 1): the median of the smallest noise in each part; what lasts
    counts as the largest."""
    places, values = [], []
    for of_case in profile.values():
        numbers = np.asarray(of_case["slices"], float)
        places += ((numbers - numbers.min()) / max(np.ptp(numbers), 1.0)).tolist()
        values += [largest if value is None else value for value in of_case["noise"]]
    part = np.minimum((np.asarray(places) * parts).astype(int), parts - 1)
    there = sorted(set(part.tolist()))
    return [(one + 0.5) / parts for one in there], [float(np.median(np.asarray(values)[part == one])) for one in there]


def write_smallest(folder: Path, found: Mapping[str, Any]) -> None:
    """`smallest.csv`: case, slice and its smallest noise, empty where it is more than the largest."""
    with replacing(folder / "smallest.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "slice", "smallest_noise"])
        for case, of_case in found["profile"].items():
            for number, value in zip(of_case["slices"], of_case["noise"], strict=True):
                writer.writerow([case, number, "" if value is None else f"{value:g}"])


def training_margins(checkpoint: Path) -> list[float]:
    """Of the slices that the training has visited, as its checkpoint holds them; empty without margins."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
    store = (content.get("ima") or {}).get("store") or {}
    if "margins" not in store:
        return []
    margins: list[float] = store["margins"][store["visits"] > 0].tolist()
    return margins


def _values(profile: Profile) -> Any:
    """Of all slices, infinite where no noise was found."""
    return np.asarray([math.inf if value is None else value for one in profile.values() for value in one["noise"]])


def _finite_quantile(values: Any, share: float) -> float | None:
    """Of numbers some of which are infinite, None where that is."""
    return finite(float(np.quantile(values, share, method="inverted_cdf"))) if len(values) else None
