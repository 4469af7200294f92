"""Severities that cost the same structure: the amount of each corruption at which slices keep a given SSIM.

Corruptions differ in kind, so equal amounts say nothing. A common structural similarity makes them comparable
(MedFM-Robust, arXiv:2605.19027).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corruption
from nnunet_ima.evaluation.evaluate import Choice, Subject
from nnunet_ima.evaluation.journal import Journal, Key, digest
from nnunet_ima.evaluation.noises import Noise, Target
from nnunet_ima.evaluation.summary import finite
from nnunet_ima.metrics.similarity import mean_ssim
from nnunet_ima.nnunet.ranks import dealt, gathered, rank, world_size
from nnunet_ima.segmentation.cases.padding import crop
from nnunet_ima.segmentation.cases.slices import Slice

TARGETS = dict(zip(SEVERITIES, (0.95, 0.9, 0.85, 0.75, 0.65), strict=True))
"""SSIM at the severities: all corruptions of MRI reach these on D4 and Sunnybrook, lower ones they do not. The
strongest spikes leave 0.63, for TorchIO draws none for about half of the slices."""
SLICES, VOLUMES = 32, 4
SMALLEST_SIDE = 16
"""Pixels of the slices that are measured: the widest blur that is tried needs so many, SSIM 11."""
TOLERANCE = 0.01
"""Further from its SSIM no amount is called a severity."""
CLOSE = 0.001
STEPS = 14
Amounts = dict[str, dict[int, float]]
"""By name of the corruption: amounts by severity."""


@dataclass(frozen=True)
class Sample:
    """Slices that SSIM is measured on. shapes: (H, W) of each without padding; seeds: as the sweep has them, so that
    what is measured is the noise that is evaluated."""

    target: Target
    slices: Sequence[Slice]
    shapes: Sequence[tuple[int, ...]]
    seeds: Sequence[str]

    def ssim(self, noise: Noise, severity: float) -> float:
        """Mean over the slices, each on its own pixels; NaN without any."""
        found = [
            mean_ssim(*(crop(image, shape).numpy() for image in (item.image, self._noisy(noise, severity, item, seed))))
            for item, shape, seed in zip(self.slices, self.shapes, self.seeds, strict=True)
        ]
        known = [value for value in found if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")

    def _noisy(self, noise: Noise, severity: float, item: Slice, seed: str) -> Tensor:
        # A float, as the sweep has it: the random numbers depend on it.
        return noise(self.target, item.image[None], item.reference[None], float(severity), [seed])[0]


def sample_of(subject: Subject) -> Sample:
    """A seeded sample of the slices that are evaluated; those too small to be measured are left out. Of volumes and
    patches some planes, with random numbers of their own: noise is made plane by plane."""
    slices = subject.slices
    are_slices = slices.unit == "slice"
    large = [place for place in slices.places if min(slices.own_shape(place)[-2:]) >= SMALLEST_SIDE]
    count = min(SLICES if are_slices else VOLUMES, len(large))
    drawn = np.random.default_rng(subject.settings.seed).choice(len(large), count, replace=False)
    places = [large[row] for row in sorted(drawn.tolist())]
    items, shapes = slices.read(places), [slices.own_shape(place)[-2:] for place in places]
    if not are_slices:
        of_each = [_planes(item, SLICES // VOLUMES) for item in items]
        shapes = [shape for shape, planes in zip(shapes, of_each, strict=True) for _ in planes]
        items = [plane for planes in of_each for plane in planes]
    return Sample(subject.target, items, shapes, subject.seeds(items))


def _planes(item: Slice, count: int) -> list[Slice]:
    """So many planes across the first axis, evenly spread."""
    rows = np.unique(np.linspace(0, item.image.shape[1] - 1, count).round().astype(int)).tolist()
    return [Slice(f"{item.case} {item.number}", row, item.image[:, row], item.reference[:, row]) for row in rows]


def calibrate(subject: Subject, choice: Choice, journal: Journal) -> Amounts:
    """Per corruption of `choice` the amounts at which the sample keeps the SSIM of `TARGETS`, told as they are found.

    A severity that a corruption cannot reach is missing. What the journal holds is not looked for again; under
    torch.distributed the corruptions are dealt to the ranks. UserError where no slice can be measured.
    """
    sample, seed = sample_of(subject), subject.settings.seed
    if not sample.slices or not np.isfinite(sample.ssim(corruption("white"), 0)):
        raise UserError(
            f"--calibrated: no slice has {SMALLEST_SIDE} pixels along both sides and any contrast, which SSIM needs; "
            "leave it out."
        )
    if rank() == 0:
        print(f"Amounts of equal SSIM, on {len(sample.slices)} slices:", flush=True)
    own: Amounts = {}
    for number in dealt([1.0] * len(choice.corruptions), world_size())[rank()]:
        name = choice.corruptions[number]
        found = {severity: _remembered(sample, name, severity, seed, journal) for severity in SEVERITIES}
        own[name] = {severity: amount for severity, (amount, ssim) in found.items() if _near(ssim, severity)}
        print(*_told(name, found), sep="\n", flush=True)
    together = {name: amounts for part in gathered(own) for name, amounts in part.items()}
    return {name: together[name] for name in choice.corruptions}


def _remembered(sample: Sample, name: str, severity: int, seed: int, journal: Journal) -> tuple[float, float]:
    """(amount, its SSIM) of a severity, from the journal if it is there."""
    told = {"targets": list(TARGETS.values()), "search": CORRUPTIONS[name].search, "seeds": list(sample.seeds)}
    key: Key = (f"amount of {name} {digest(told)}", severity, 0)
    if key not in journal.found:
        amount, ssim = amount_of(
            lambda amount: sample.ssim(corruption(name, seed, {severity: amount}), severity),
            TARGETS[severity],
            *CORRUPTIONS[name].search,
        )
        journal.add(key, {"amount": amount, "ssim": ssim})
    record = journal.found[key]
    return record["amount"], record["ssim"]


def amount_of(ssim: Callable[[float], float], target: float, mildest: float, strongest: float) -> tuple[float, float]:
    """The amount (four digits) between these, both above 0, at which `ssim` is nearest to the target, and its SSIM: by
    bisection of the amount's logarithm."""
    best = strongest, ssim(strongest)
    if best[1] > target:
        return best
    for _ in range(STEPS):
        amount = float(f"{np.sqrt(mildest * strongest):.4g}")
        found = ssim(amount)
        if abs(found - target) < abs(best[1] - target):
            best = amount, found
        if abs(found - target) <= CLOSE:
            break
        mildest, strongest = (amount, strongest) if found > target else (mildest, amount)
    return best


def _near(ssim: float, severity: int) -> bool:
    return abs(ssim - TARGETS[severity]) <= TOLERANCE


def _told(name: str, found: Mapping[int, tuple[float, float]]) -> list[str]:
    """Lines for the terminal: the amounts with their SSIM, and which severities there are not."""
    cells = [f"{amount:g} (SSIM {ssim:.3f})" for severity, (amount, ssim) in found.items() if _near(ssim, severity)]
    missing = [
        f"    {name} comes no nearer to SSIM {TARGETS[severity]:g} than {ssim:.3f}: severity {severity} is left out."
        for severity, (_, ssim) in found.items()
        if not _near(ssim, severity)
    ]
    return [f"  {name}, {CORRUPTIONS[name].meaning}: {', '.join(cells) or 'none'}", *missing]


def add_ssim(summary: dict[str, Any], subject: Subject, choice: Choice) -> None:
    """Put the SSIM of each severity, on the sample, into the figures of the corruptions; it stays None without slices
    that can be measured."""
    if not choice.corruptions:
        return
    sample = sample_of(subject)
    for name, one in summary["corruptions"].items():
        noise = corruption(name, subject.settings.seed, choice.amounts.get(name))
        for level in one["levels"]:
            level["ssim"] = finite(round(sample.ssim(noise, level["severity"]), 4))


def add_pooled_ssim(summary: dict[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
    """The same of several folds: the mean over their slices."""
    for name, one in summary["corruptions"].items():
        for row, level in enumerate(one["levels"]):
            found = [(part["corruptions"][name]["levels"][row]["ssim"], part["slices"]) for part in parts]
            known = [(ssim, slices) for ssim, slices in found if ssim is not None]
            values, weights = zip(*known, strict=True) if known else ((), ())
            level["ssim"] = round(float(np.average(values, weights=weights)), 4) if known else None
