"""Tables, files and comparisons of what a sweep found."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ima.evaluation.comparison import compare
from nnunet_ima.evaluation.metrics import average_dice_index, slice_dice, total_voxel_dice_index
from nnunet_ima.evaluation.models import TrainedModel
from nnunet_ima.evaluation.report import plot_curves, summarise, table, write_results, write_slices
from nnunet_ima.evaluation.robustness import Attack, Sweep
from nnunet_ima.evaluation.statistics import case_interval

CASES = [f"case{number}" for number in range(8) for _ in range(3)]


def _sweep(seed: int, loss: float) -> Sweep:
    """Two classes, 8 cases of 3 slices; Dice falls by `loss` per level."""
    rng = np.random.default_rng(seed)
    tp = np.stack([rng.integers(60, 90, (24, 2)) * max(0.0, 1 - loss * level) for level in range(3)])
    counts = np.stack([tp, 100 - tp, 100 - tp], -1).astype(np.int64)
    slices = [(case, number % 3) for number, case in enumerate(CASES)]
    return Sweep([0.0, 5.0, 10.0], slices, counts, np.zeros((3, 24)), counts[[0, 0, 0]], 1.0)


def _summary(seed: int, loss: float, trainer: str = "nnUNetTrainerIMA") -> dict[str, Any]:
    model = TrainedModel(Path(f"/r/Dataset004_X/{trainer}__nnUNetPlans__2d"), "0", "checkpoint_final.pth")
    return summarise(model, _sweep(seed, loss), ["anterior", "posterior"], 100)


def test_a_summary_holds_the_figures_and_their_intervals() -> None:
    summary, counts = _summary(0, 0.3), _sweep(0, 0.3).counts
    for number, level in enumerate(summary["levels"]):
        assert level["tvdi"] == pytest.approx(100 * total_voxel_dice_index(counts[number]), abs=1e-3)
        assert level["adi"] == pytest.approx(100 * average_dice_index(counts[number]), abs=1e-3)
        interval = case_interval(average_dice_index, counts[number], CASES)
        assert level["adi_interval"] == pytest.approx([100 * interval.low, 100 * interval.high], abs=1e-3)
        assert level["adi_noise"] == summary["levels"][0]["adi"]
        assert level["failed"] == pytest.approx(100 * (slice_dice(counts[number]) <= 0.6).mean(), abs=1e-3)
    assert 0 < summary["half_failure_level"] < 10
    assert np.mean([values[1] for values in summary["adi_per_case"].values()]) == pytest.approx(
        summary["levels"][1]["adi"], abs=1e-3
    )


def test_what_is_not_defined_is_null_in_the_file_and_none_in_the_table(tmp_path: Path) -> None:
    """Slices without any class have no Dice."""
    model = TrainedModel(Path("/r/Dataset004_X/nnUNetTrainer__nnUNetPlans__2d"), "0", "checkpoint_final.pth")
    nothing = Sweep([0.0, 1.0], [("a", 0), ("b", 0)], np.zeros((2, 2, 1, 3), np.int64), np.zeros((2, 2)),
                    np.zeros((2, 2, 1, 3), np.int64), 1.0)  # fmt: skip
    summary = summarise(model, nothing, ["box"], 100)
    write_results(tmp_path, [summary], Attack(), {})
    read = json.loads((tmp_path / "results.json").read_text())["models"][0]
    assert read["levels"][0]["adi"] is None and read["levels"][0]["adi_interval"] == [None, None]
    assert read["adi_area"] is None and read["half_failure_level"] is None
    assert "none" in table([summary])


def test_models_are_compared_case_by_case() -> None:
    better, worse = _summary(0, 0.1), _summary(1, 0.4, "nnUNetTrainerPlain")
    rows = compare([better, worse])
    assert [row["noise"] for row in rows] == [0, 5, 10] and all(row["cases"] == 8 for row in rows)
    assert rows[1]["mean"] == pytest.approx(better["levels"][1]["adi"] - worse["levels"][1]["adi"], abs=1e-3)
    # Eight cases, all one way: p = 2 / 2^8, three times after Holm.
    assert rows[2]["p"] == pytest.approx(3 / 128) and rows[2]["effect"] == 1
    printed = table([better, worse])
    assert f"nnUNetTrainerIMA - nnUNetTrainerPlain {rows[2]['mean']:+.1f}, p = 0.023 (8 cases)" in printed


def test_the_same_model_twice_does_not_differ() -> None:
    assert all(row["p"] == 1 and row["mean"] == 0 for row in compare([_summary(0, 0.3), _summary(0, 0.3)]))


def test_levels_and_cases_of_one_model_only_are_left_out() -> None:
    first, second = _summary(0, 0.3), _summary(1, 0.3)
    del second["levels"][1], second["adi_per_case"]["case0"]
    for values in second["adi_per_case"].values():
        del values[1]
    assert [(row["noise"], row["cases"]) for row in compare([first, second])] == [(0, 7), (10, 7)]


def test_a_model_that_never_fails_is_above_the_largest_level() -> None:
    assert "above 10" in table([_summary(0, 0.0)])


def test_the_files_hold_what_was_counted(tmp_path: Path) -> None:
    found = _sweep(0, 0.3)
    write_slices(tmp_path, found, ["anterior", "posterior"])
    rows = list(csv.DictReader((tmp_path / "slices.csv").open()))
    assert len(rows) == 2 * 3 * 24 * 2
    for kind, counts in (("attack", found.counts), ("random", found.control)):
        assert sum(int(row["tp"]) for row in rows if row["kind"] == kind) == counts[..., 0].sum()
    plot_curves(tmp_path, [_summary(0, 0.3), _summary(1, 0.1)])
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert not math.isnan(_summary(0, 0.3)["adi_area"])
