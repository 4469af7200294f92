"""A certificate: pixels that no noise of a stated norm can change (SegCertify, Fischer et al., ICML 2021).

What is certified is the smoothed model: of a slice under Gaussian noise it takes the class that most of its answers
vote for, pixel by pixel. Where a share of more than `threshold` votes for a class, which a binomial test decides, no
noise of an L2 norm up to sigma * Phi^-1(threshold) changes the answer (Cohen et al., ICML 2019). A pixel whose votes
are too close abstains. Holm's correction makes it true of all certified pixels of a slice at once, with probability
1 - ALPHA.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.evaluate import Choice, Subject
from nnunet_ima.evaluation.journal import Journal, Key
from nnunet_ima.evaluation.noises import Target
from nnunet_ima.evaluation.summary import finite, percent
from nnunet_ima.metrics.indices import ADI, TVDI
from nnunet_ima.metrics.statistics import case_interval
from nnunet_ima.nnunet.ranks import dealt, gathered, rank, world_size
from nnunet_ima.segmentation.cases.slices import Slice

ALPHA = 0.001
"""Probability, for each slice, that the certificate of one of its pixels is wrong."""
THRESHOLDS = (0.75, 0.85, 0.95, 0.99)
FOUND = ("clean", "counts", "abstained")
"""What is kept of each slice, see `certified`."""
GUESSES = 10
"""Answers that choose the class to be tested, apart from those that test it."""


def radius(sigma: float, threshold: float) -> float:
    """L2 norm up to which the answer of a certified pixel cannot change."""
    return sigma * float(norm.ppf(threshold))


def samples_needed(threshold: float, pixels: int) -> int:
    """Unanimous votes that certify the first of so many pixels."""
    return math.ceil(math.log(ALPHA / pixels) / math.log(threshold))


def reachable(samples: int, pixels: int) -> list[float]:
    """The thresholds that so many votes can certify at all. UserError where there are none."""
    found = [threshold for threshold in THRESHOLDS if samples_needed(threshold, pixels) <= samples]
    if not found:
        raise UserError(
            f"--certify-samples {samples} can certify nothing: a slice of {pixels} pixels needs at least "
            f"{samples_needed(THRESHOLDS[0], pixels)}."
        )
    return found


def most_pixels(subject: Subject) -> int:
    """Of the largest slice."""
    return max(math.prod(place.shape[1:]) for place in subject.slices.places)


def certify(subject: Subject, choice: Choice, sigma: float, samples: int, journal: Journal | None) -> dict[str, Any]:
    """Certified Dice of all slices by radius: abstained pixels count as errors, so that it is a lower bound of the Dice
    that any noise up to the radius leaves of the smoothed model. sigma: of the Gaussian noise, in SD."""
    places = subject.slices.places
    thresholds = reachable(samples, most_pixels(subject))
    known: dict[Key, dict[str, Any]] = dict(journal.found) if journal else {}
    keys = [(f"certify {sigma:g} {samples} {thresholds}", sigma, row) for row in range(len(places))]
    left = gathered([row for row, key in enumerate(keys) if key not in known])[0]
    own = [left[row] for row in dealt([math.prod(places[row].shape) for row in left], world_size())[rank()]]
    mine: dict[Key, dict[str, Any]] = {}
    for row in tqdm(own, "Certifying", unit="slice", leave=False, disable=rank() > 0, dynamic_ncols=True):
        (item,) = subject.slices.read([places[row]])
        mine[keys[row]] = certified(subject.target, item, sigma, samples, thresholds, choice)
        if journal:
            journal.add(keys[row], mine[keys[row]])
    for records in gathered(mine):
        known.update(records)
    slices = [
        {"case": place.case, "slice": place.number} | {name: known[key][name] for name in FOUND}
        for place, key in zip(places, keys, strict=True)
    ]
    return figures(slices, thresholds, {"sigma": sigma, "samples": samples, "alpha": ALPHA})


def figures(slices: Sequence[dict[str, Any]], thresholds: Sequence[float], told: dict[str, Any]) -> dict[str, Any]:
    """What is told with the figures of the smoothed model without noise, of each threshold, and the slices they come
    from; slices: as `certified` gives them, with their "case"."""
    cases = [one["case"] for one in slices]
    levels = []
    for column, threshold in enumerate(thresholds):
        counts = np.asarray([one["counts"][column] for one in slices], np.int64)
        interval = case_interval(ADI, counts, cases)
        levels.append(
            {
                "threshold": threshold,
                "radius": radius(told["sigma"], threshold),
                "adi": percent(interval.value),
                "adi_interval": [percent(interval.low), percent(interval.high)],
                "tvdi": percent(TVDI(counts)),
                "abstained": finite(100 * float(np.mean([one["abstained"][column] for one in slices]))),
            }
        )
    clean = np.asarray([one["clean"] for one in slices], np.int64)
    return told | {"adi": percent(ADI(clean)), "tvdi": percent(TVDI(clean)), "levels": levels, "slices": [*slices]}


def pooled_certificate(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of several folds, whose cases differ: figures over all slices, for the radii that all folds have."""
    common = [
        threshold
        for threshold in THRESHOLDS
        if all(threshold in [level["threshold"] for level in part["levels"]] for part in parts)
    ]
    told = {key: parts[0][key] for key in ("sigma", "samples", "alpha")}
    return figures([one for part in parts for one in _columns(part, common)], common, told)


def _columns(part: dict[str, Any], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """The slices of a fold with what belongs to these thresholds."""
    rows = [row for row, level in enumerate(part["levels"]) if level["threshold"] in thresholds]
    return [one | {key: [one[key][row] for row in rows] for key in ("counts", "abstained")} for one in part["slices"]]


def certified(
    target: Target, item: Slice, sigma: float, samples: int, thresholds: Sequence[float], choice: Choice
) -> dict[str, Any]:
    """Of one slice: counts (classes, 3) of the smoothed model without noise ("clean"), and for each threshold the
    counts that are certain and the share of pixels that abstain."""
    x, y = item.image[None].to(target.device), item.reference[None].to(target.device)
    seed = f"{choice.settings.seed} {item.case} {item.number} certify"
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    guess, agreeing = majority(target, x, sigma, samples, generator, choice.batch_size)
    objective = target.objective()
    reference, valid = objective.reference(y)
    reference, valid = reference[0], valid[0].expand_as(reference[0])
    # With labels a guess is one class of several, with regions inside or outside of each.
    positive = guess.bool() if objective.regions else guess == objective._labels(guess[None])[0]
    counted, abstained = [], []
    for threshold in thresholds:
        sure = holds(agreeing, valid[: len(agreeing)], samples, threshold)
        counted.append(certain_counts(positive, sure, reference, valid))
        abstained.append(float((~sure & valid[: len(agreeing)]).sum() / valid[: len(agreeing)].sum().clamp_min(1)))
    everything = torch.ones_like(guess, dtype=torch.bool)
    return {"clean": certain_counts(positive, everything, reference, valid), "counts": counted, "abstained": abstained}


def majority(
    target: Target, x: Tensor, sigma: float, samples: int, generator: torch.Generator, batch: int
) -> tuple[Tensor, Tensor]:
    """The class that a few first answers choose for each pixel, (1, H, W) with labels, (R, H, W) with regions, and how
    many of `samples` further ones agree."""
    guess = votes(target, x, sigma, GUESSES, generator, batch).argmax(0)
    return guess, votes(target, x, sigma, samples, generator, batch).gather(0, guess[None])[0]


@torch.no_grad()
def votes(target: Target, x: Tensor, sigma: float, samples: int, generator: torch.Generator, batch: int) -> Tensor:
    """How many answers under noise vote for each class: (K, 1, H, W) with labels, (2, R, H, W) with regions (outside,
    inside)."""
    objective = target.objective()
    total: Tensor | int = 0
    for start in range(0, samples, batch):
        count = min(batch, samples - start)
        noise = torch.randn(count, *x.shape[1:], generator=generator).to(x.device)
        logits = target.network(x + sigma * noise)
        if objective.regions:
            inside = (logits > 0).sum(0)
            total = total + torch.stack([count - inside, inside])
        else:
            classes = torch.arange(logits.shape[1], device=x.device).view(-1, 1, 1, 1)
            total = total + (logits.argmax(1)[None] == classes).sum(1, keepdim=True)
    assert isinstance(total, Tensor)
    return total


def holds(agreeing: Tensor, valid: Tensor, samples: int, threshold: float) -> Tensor:
    """Which pixels are certified, bool as `agreeing`: Holm's step-down over the valid ones, at the level ALPHA."""
    p = np.asarray(binom.sf(agreeing.cpu().numpy() - 1, samples, threshold))
    rejected = holm(p[valid.cpu().numpy()], ALPHA)
    sure = torch.zeros(agreeing.shape, dtype=torch.bool)
    sure[valid.cpu()] = torch.from_numpy(rejected)
    return sure.to(agreeing.device)


def holm(p: NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected together at the family-wise level alpha (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    passes = p[order] <= alpha / (len(p) - np.arange(len(p)))
    stopped = len(p) if passes.all() else int(np.argmin(passes))
    rejected = np.zeros(len(p), bool)
    rejected[order[:stopped]] = True
    return rejected


def certain_counts(positive: Tensor, sure: Tensor, reference: Tensor, valid: Tensor) -> list[list[int]]:
    """TP, FP, FN of each class that noise can do no worse than: a pixel that abstains is missed where it belongs to the
    class, and found where it does not."""
    found = positive & sure & valid
    clear = ~positive & sure
    tp = (found & reference).flatten(1).sum(1)
    fp = (valid & ~reference & ~clear).flatten(1).sum(1)
    fn = (reference & ~found).flatten(1).sum(1)
    counts: list[list[int]] = torch.stack([tp, fp, fn], 1).tolist()
    return counts
