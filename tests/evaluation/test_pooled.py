"""Folds pooled: figures of all cases together, computed by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from nnunet_ima.evaluation.noises import Settings, attack, random_noise
from nnunet_ima.evaluation.pooled import pooled, pooled_sweep
from nnunet_ima.evaluation.strong_sample import largest_gap, pooled_sample
from nnunet_ima.evaluation.summary import summarise
from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.metrics.indices import average_dice_index
from nnunet_ima.segmentation.cases.models import TrainedModel

MODEL = TrainedModel(Path("Dataset902_PhantomHeart/nnUNetTrainer__nnUNetPlans__2d"), "0,1", "checkpoint_final.pth")
LEVELS = [0.0, 5.0]


def sweep(fold: int, slices: int) -> Sweep:
    random = np.random.default_rng(fold)
    counts = random.integers(1, 50, (len(LEVELS), slices, 2, 3))
    noises = [attack("pgd", Settings()), random_noise(Settings())]
    found = {one.name: Found(one, LEVELS, counts, np.full((len(LEVELS), slices), float(fold))) for one in noises}
    return Sweep([(f"case{fold}_{number // 2}", number) for number in range(slices)], found, 1.5)


def test_figures_are_those_of_all_cases() -> None:
    sweeps = [sweep(0, 4), sweep(1, 7)]
    summaries = [
        {**summarise(MODEL.of_fold(str(fold)), one, ["a", "b"], pixels, 2.0, "HU"), "checkpoint_sha256": f"{fold}"}
        for fold, (one, pixels) in enumerate(zip(sweeps, (64.0, 100.0), strict=True))
    ]
    summary, together = pooled(MODEL, summaries, sweeps)
    counts = np.concatenate([one.found["pgd"].counts for one in sweeps], 1)
    for row, level in enumerate(summary["levels"]):
        assert level["adi"] == pytest.approx(100 * average_dice_index(counts[row]), abs=1e-3)
    assert (summary["cases"], summary["slices"], summary["fold"]) == (6, 11, "0,1")
    # Seven slices of 100 pixels, four of 64.
    assert summary["levels"][1]["rms_per_pixel"] == pytest.approx(5 / 10) and summary["units_per_sd"] == 2
    assert [one["fold"] for one in summary["folds"]] == ["0", "1"] and summary["checkpoint_sha256"] == "0+1"
    assert len(together.slices) == 11 and together.seconds == 3
    assert together.found["pgd"].norms[0].tolist() == [0.0] * 4 + [1.0] * 7
    assert pooled_sweep(sweeps[:1]).slices == sweeps[0].slices


def test_samples_are_pooled_by_their_slices() -> None:
    samples = [
        {
            "slices": slices,
            "strong_steps": 25,
            "levels": [{"noise": 5.0, "main": main, "strong": strong}],
            "forwards": 7,
        }
        for slices, main, strong in ((4, 50.0, 40.0), (12, 70.0, 50.0))
    ]
    together = pooled_sample(samples)
    assert together["slices"] == 16 and together["levels"] == [{"noise": 5.0, "main": 65.0, "strong": 47.5}]
    assert together["forwards"] == 14
    assert largest_gap(together) == (17.5, 5.0)


def test_the_worst_fold_speaks_for_a_check() -> None:
    sweeps = [sweep(0, 2), sweep(1, 2)]
    verdicts = [("PASS", "WARN"), ("FAIL", "PASS")]
    summaries = [
        {
            **summarise(MODEL.of_fold(str(fold)), one, ["a", "b"], 64.0, math.nan),
            "checkpoint_sha256": "",
            "audit": [
                {"name": name, "verdict": verdict, "figure": str(fold), "wanted": ""}
                for name, verdict in zip(("order", "effort"), verdicts[fold], strict=True)
            ],
        }
        for fold, one in enumerate(sweeps)
    ]
    audit = pooled(MODEL, summaries, sweeps)[0]["audit"]
    assert [(check["name"], check["verdict"], check["figure"]) for check in audit] == [
        ("order", "FAIL", "1"),
        ("effort", "WARN", "0"),
    ]
