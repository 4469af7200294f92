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
from nnunet_ima.evaluation.summary import finite, number, quarters
from nnunet_ima.evaluation.sweep import Sweep, sweep
from nnunet_ima.files import replacing
from nnunet_ima.metrics.indices import FAILURE_THRESHOLD, slice_dice

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Profile = Mapping[str, Mapping[str, Sequence[Any]]]
"""By case: the numbers of its slices, the smallest noise of each (None: more than the largest), and the size of what is
to be found there (pixels of the reference)."""


def smallest_noises(
    subject: Subject, choice: Choice, journal: Journal | None, per_structure: bool = False
) -> dict[str, Any]:
    """The smallest noise of every slice up to the largest level of `choice`; see `figures`.

    per_structure: also under "structures", by class name, that at which the Dice of this structure alone falls, of the
    slices that show it; empty for a model with one structure. forwards: what it cost, see `forwards.counted`."""
    largest, slices, settings = max(choice.levels), subject.slices, subject.settings
    whole, single = smallest_noise(settings), {}
    if per_structure and len(subject.classes) > 1:
        single = {name: smallest_noise(settings, (number, name)) for number, name in enumerate(subject.classes)}
    plan = [(noise, [largest]) for noise in (whole, *single.values())]
    swept = sweep(subject.target, slices.places, plan, choice.batch_size, settings.seed, journal, read=slices.read)
    margins = [] if subject.model.ensemble else training_margins(subject.model.fold_folder / subject.model.checkpoint)
    found = figures(_profile(swept, whole.name), largest, margins)
    if per_structure:
        found["structures"] = {
            name: figures(_profile(swept, noise.name, number), largest)
            for number, (name, noise) in enumerate(single.items())
        }
    return found | {"forwards": finite(sum(one.forwards for one in swept.found.values()))}


def _profile(swept: Sweep, name: str, structure: int | None = None) -> Profile:
    """Of the slices that show the structure, all slices without one."""
    found = swept.found[name]
    counts = found.counts[0] if structure is None else found.counts[0][:, structure, None]
    sizes = counts[..., 0].sum(1) + counts[..., 2].sum(1)
    still_right = ~(slice_dice(counts) <= FAILURE_THRESHOLD)
    profile: dict[str, dict[str, list[Any]]] = {}
    for row, (case, number_) in enumerate(swept.slices):
        if structure is not None and sizes[row] == 0:
            continue
        of_case = profile.setdefault(case, {"slices": [], "noise": [], "pixels": []})
        of_case["slices"].append(number_)
        of_case["noise"].append(None if still_right[row] else round(float(found.norms[0, row]), 5))
        of_case["pixels"].append(int(sizes[row]))
    return profile


def figures(profile: Profile, largest: float, margins: Sequence[float] = ()) -> dict[str, Any]:
    """largest: where the search ended. median: the noise at which half of the slices fail, None above the largest; and
    other quantiles. failing: number of slices that fail without noise; lasting: of those that do not fail at all.
    size_quartiles: slices in quarters by size, with the median of each. profile: see `Profile`. training_margins:
    quantiles of the margins that the training left, where it has any."""
    values = _values(profile)
    quantiles = {f"{share:g}": _finite_quantile(values, share) for share in QUANTILES}
    told = {f"{share:g}": float(np.quantile(margins, share)) for share in QUANTILES} if len(margins) else None
    return {
        "largest": largest,
        "median": quantiles["0.5"],
        "quantiles": quantiles,
        "failing": int((values == 0).sum()),
        "lasting": int(np.isinf(values).sum()),
        "size_quartiles": _by_size(profile, values),
        "training_margins": told,
        "profile": profile,
    }


def _by_size(profile: Profile, values: Any) -> list[dict[str, Any]]:
    sizes = np.asarray([size for one in profile.values() for size in one["pixels"]])
    return [
        {
            "pixels": [int(sizes[rows[0]]), int(sizes[rows[-1]])],
            "slices": len(rows),
            "median": _finite_quantile(values[rows], 0.5),
        }
        for rows in quarters(sizes)
    ]


def pooled_smallest(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several folds, whose cases differ."""
    together = _together(parts)
    if "structures" in parts[0]:
        names = parts[0]["structures"]
        together["structures"] = {name: _together([part["structures"][name] for part in parts]) for name in names}
    return together | {"forwards": finite(sum(number(part["forwards"]) for part in parts))}


def _together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return figures({case: one for part in parts for case, one in part["profile"].items()}, parts[0]["largest"])


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


def by_size(quartiles: Sequence[Mapping[str, Any]], largest: float) -> tuple[list[float], list[float]]:
    """The middle of each quarter in pixels, and its median; what lasts counts as the largest."""
    middles = [sum(one["pixels"]) / 2 for one in quartiles]
    return middles, [largest if one["median"] is None else one["median"] for one in quartiles]


def write_smallest(folder: Path, found: Mapping[str, Any]) -> None:
    """`smallest.csv`: case, slice, structure (empty for the slice as a whole), its pixels, and its smallest noise,
    empty where it is more than the largest."""
    with replacing(folder / "smallest.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "slice", "structure", "pixels", "smallest_noise"])
        for structure, one in (("", found), *found.get("structures", {}).items()):
            for case, of_case in one["profile"].items():
                for number_, pixels, value in zip(of_case["slices"], of_case["pixels"], of_case["noise"], strict=True):
                    writer.writerow([case, number_, structure, pixels, "" if value is None else f"{value:g}"])


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
