"""What a stronger attack would find: `strong` on a few slices, beside an attack that flatters a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_ima.evaluation.evaluate import Choice, Subject, by_protocol
from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.noises import Settings, attack
from nnunet_ima.evaluation.summary import finite, number, percent, worst_of
from nnunet_ima.evaluation.sweep import Found, Sweep, sweep
from nnunet_ima.metrics.indices import ADI
from nnunet_ima.segmentation.objectives.ensemble import STRONG

FLATTERING = ("pgd", "segpgd", "cospgd", "ifgsm", "fgsm", "apgd", "padam-cos")
SLICES = 16
NAME = "strong on a sample"


def is_wanted(choice: Choice) -> bool:
    """Whether the main attack leaves the question open."""
    return choice.attacks[0] in FLATTERING and "strong" not in choice.attacks and any(choice.levels)


def sample_settings(settings: Settings) -> Settings:
    """Those of `strong` that takes as many steps as the main attack, all its losses together."""
    return replace(settings, strong_steps=max(1, settings.steps // len(STRONG)))


def strong_sample(subject: Subject, choice: Choice, found: Sweep, journal: Journal | None) -> dict[str, Any]:
    """ADI in percent of a seeded sample of slices at each level, under the main attack and under the worse of it and
    `strong`. It costs as much as the main attack on these slices."""
    settings = sample_settings(subject.settings)
    main = found.found[choice.attacks[0]]
    levels = [level for level in main.levels if level > 0]
    noise = by_protocol(replace(attack("strong", settings), name=NAME), choice, levels)
    places = subject.slices.places
    drawn = np.random.default_rng(settings.seed).choice(len(places), min(SLICES, len(places)), replace=False)
    sample = [places[row] for row in sorted(drawn.tolist())]
    plan = [(noise, levels)]
    swept = sweep(
        subject.target,
        sample,
        plan,
        choice.batch_size,
        settings.seed,
        journal,
        progress=False,
        read=subject.slices.read,
    )
    row_of = {place: row for row, place in enumerate(found.slices)}
    columns = [row_of[place] for place in swept.slices]
    rows = [main.levels.index(level) for level in levels]
    same = Found(main.noise, levels, main.counts[rows][:, columns], main.norms[rows][:, columns])
    worst = worst_of([same, swept.found[NAME]])
    return {
        "slices": len(sample),
        "strong_steps": settings.strong_steps,
        "levels": [
            {"noise": level, "main": percent(ADI(same.counts[row])), "strong": percent(ADI(worst.counts[row]))}
            for row, level in enumerate(levels)
        ],
        "forwards": finite(swept.found[NAME].forwards),
    }


def largest_gap(sample: Mapping[str, Any]) -> tuple[float, float]:
    """By how many points the main attack flatters, at most, and at which noise level."""
    gaps = [(number(level["main"]) - number(level["strong"]), level["noise"]) for level in sample["levels"]]
    return max((gap for gap in gaps if np.isfinite(gap[0])), default=(0.0, 0.0))


def pooled_sample(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several folds: means over the slices of all samples."""
    weights = [one["slices"] for one in samples]
    levels = []
    for row, level in enumerate(samples[0]["levels"]):
        means = {
            key: float(np.average([number(one["levels"][row][key]) for one in samples], weights=weights))
            for key in ("main", "strong")
        }
        levels.append({"noise": level["noise"], **{key: round(value, 4) for key, value in means.items()}})
    told = {"slices": sum(weights), "strong_steps": samples[0]["strong_steps"], "levels": levels}
    return told | {"forwards": finite(sum(number(one["forwards"]) for one in samples))}
