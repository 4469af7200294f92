"""Tables, files and comparisons of what a sweep found."""

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ima.evaluation.corruptions import corruption
from nnunet_ima.evaluation.evaluate import Choice, repeatable
from nnunet_ima.evaluation.noises import Noise, Settings, attack, random_noise
from nnunet_ima.evaluation.summary import WORST, size_quartiles, summarise, worst_of
from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.metrics.comparison import MEAN, compare
from nnunet_ima.metrics.indices import ADI, average_dice_index, slice_dice, total_voxel_dice_index
from nnunet_ima.metrics.statistics import case_interval
from nnunet_ima.plots import new_figure
from nnunet_ima.report.images import outline, picture
from nnunet_ima.report.pictures import Frame, Picture
from nnunet_ima.report.segmentation import write_report
from nnunet_ima.report.tables import results, table, write_results, write_samples
from nnunet_ima.segmentation.cases.models import TrainedModel

CLASSES = ["anterior", "posterior"]
CASES = [f"case{number}" for number in range(8) for _ in range(3)]


def _found(noise: Noise, loss: float, seed: int, levels: list[float]) -> Found:
    """Two classes, 8 cases of 3 slices; Dice falls by `loss` per level."""
    rng = np.random.default_rng(seed)
    tp = np.stack([rng.integers(60, 90, (24, 2)) * max(0.0, 1 - loss * level) for level in range(len(levels))])
    counts = np.stack([tp, 100 - tp, 100 - tp], -1).astype(np.int64)
    return Found(noise, levels, counts, np.zeros((len(levels), 24)))


def _sweep(seed: int, loss: float) -> Sweep:
    levels = [0.0, 5.0, 10.0]
    settings = Settings()
    found = {
        "pgd": _found(attack("pgd", settings), loss, seed, levels),
        "square": _found(attack("square", settings), loss / 2, seed, levels),
        "random": _found(random_noise(settings), 0.0, seed, levels),
        "blur": _found(corruption("blur"), loss / 4, seed, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
    }
    return Sweep([(case, number % 3) for number, case in enumerate(CASES)], found, 1.0)


def _summary(seed: int, loss: float, trainer: str = "nnUNetTrainerIMA") -> dict[str, Any]:
    model = TrainedModel(Path(f"/r/Dataset004_X/{trainer}__nnUNetPlans__2d"), "0", "checkpoint_final.pth")
    summary = summarise(model, _sweep(seed, loss), CLASSES, 100, 12.5, "HU")
    return summary | {"checkpoint_sha256": "0" * 64}


def test_a_summary_holds_the_figures_and_their_intervals() -> None:
    summary, found = _summary(0, 0.3), _sweep(0, 0.3).found
    for number, level in enumerate(summary["levels"]):
        counts = found["pgd"].counts[number]
        assert level["tvdi"] == pytest.approx(100 * total_voxel_dice_index(counts), abs=1e-3)
        assert level["adi"] == pytest.approx(100 * average_dice_index(counts), abs=1e-3)
        interval = case_interval(ADI, counts, CASES)
        assert level["adi_interval"] == pytest.approx([100 * interval.low, 100 * interval.high], abs=1e-3)
        assert level["adi_noise"] == pytest.approx(100 * ADI(found["random"].counts[number]), abs=1e-3)
        assert level["failed"] == pytest.approx(100 * (slice_dice(counts) <= 0.6).mean(), abs=1e-3)
        assert level["rms_in_units"] == pytest.approx(level["noise"] / 10 * 12.5)
    assert 0 < summary["half_failure_level"] < 10
    assert np.mean([values[1] for values in summary["adi_per_case"].values()]) == pytest.approx(
        summary["levels"][1]["adi"], abs=1e-3
    )
    assert list(summary["others"]) == ["square", WORST, "random"]
    assert summary["corruptions"]["blur"]["levels"][5]["adi"] == pytest.approx(100 * ADI(found["blur"].counts[5]), 1e-3)


def test_the_worst_of_all_attacks_is_no_better_than_any() -> None:
    summary = _summary(0, 0.3)
    for row, level in enumerate(summary["others"][WORST]["levels"]):
        assert level["adi"] <= min(summary["levels"][row]["adi"], summary["others"]["square"]["levels"][row]["adi"])


def _two_attacks(*counts: list[list[list[int]]]) -> list[Found]:
    """At one level, per attack the counts (slices, classes, 3)."""
    names = ("pgd", "square")
    return [
        Found(attack(name, Settings()), [1.0], np.asarray([each], np.int64), np.asarray([[float(number)] * len(each)]))
        for number, (name, each) in enumerate(zip(names, counts, strict=True))
    ]


def test_in_a_slice_without_foreground_false_positives_are_worse_than_nothing() -> None:
    """A slice without a Dice is a perfect one: nothing to find, nothing found."""
    nothing, little, much = [[0, 0, 0]], [[0, 3, 0]], [[0, 50, 0]]
    half, less = [[40, 40, 40]], [[20, 60, 60]]
    attacks = _two_attacks([nothing, little, nothing, little, half], [little, nothing, nothing, much, less])
    for order in (attacks, attacks[::-1]):
        worst = worst_of(order)
        assert worst.counts[0].tolist() == [little, little, nothing, much, less]
        assert worst.norms[0, [0, 1, 3, 4]].tolist() == [1, 0, 1, 1]
        for one in attacks:
            assert ADI(worst.counts[0]) <= ADI(one.counts[0])
            wrong = worst.counts[0, :4, :, 1:].sum((1, 2))
            assert (wrong >= one.counts[0, :4, :, 1:].sum((1, 2))).all()


def test_quartiles_hold_all_slices_by_size() -> None:
    counts = np.zeros((1, 8, 2, 3), np.int64)
    counts[0, :, 0, 0] = [80, 10, 70, 20, 60, 30, 50, 40]
    counts[0, :, 1, 2] = 5
    found = size_quartiles(counts)
    assert [quartile["pixels"] for quartile in found] == [[15, 25], [35, 45], [55, 65], [75, 85]]
    assert all(quartile["slices"] == 2 and quartile["adi"] == [50.0] for quartile in found)


def test_what_is_not_defined_is_null_in_the_file_and_none_in_the_table(tmp_path: Path) -> None:
    """Slices without any class have no Dice."""
    model = TrainedModel(Path("/r/Dataset004_X/nnUNetTrainer__nnUNetPlans__2d"), "0", "checkpoint_final.pth")
    nothing = Found(attack("pgd", Settings()), [0.0, 1.0], np.zeros((2, 2, 1, 3), np.int64), np.zeros((2, 2)))
    summary = summarise(model, Sweep([("a", 0), ("b", 0)], {"pgd": nothing}, 1.0), ["box"], 100)
    write_results(tmp_path, results([summary], {}, {}))
    read = json.loads((tmp_path / "results.json").read_text())["models"][0]
    assert read["levels"][0]["adi"] is None and read["levels"][0]["adi_interval"] == [None, None]
    assert read["levels"][0]["rms_in_units"] is None and read["unit"] is None
    assert read["adi_area"] is None and read["half_failure_level"] is None
    assert "none" in table([summary])


def test_models_are_compared_case_by_case() -> None:
    better, worse = _summary(0, 0.1), _summary(1, 0.4, "nnUNetTrainerPlain")
    rows = compare([better, worse])
    assert [(row["noise"], row["class"]) for row in rows] == [
        (level, name) for level in (0, 5, 10) for name in (MEAN, *CLASSES)
    ]
    assert all(row["cases"] == 8 for row in rows)
    assert rows[3]["mean"] == pytest.approx(better["levels"][1]["adi"] - worse["levels"][1]["adi"], abs=1e-3)
    # Eight cases, all one way: p = 2 / 2^8, nine times after Holm.
    assert rows[6]["p"] == pytest.approx(9 / 128) and rows[6]["effect"] == 1
    printed = table([better, worse])
    assert f"nnUNetTrainerIMA - nnUNetTrainerPlain {rows[6]['mean']:+.1f}, p = 0.07 (8 cases)" in printed


def test_too_few_cases_are_said_to_be_too_few_and_listed() -> None:
    models = [_summary(0, 0.1), _summary(1, 0.4, "nnUNetTrainerPlain")]
    tables = [one for model in models for one in (model["adi_per_case"], *model["dice_per_case"].values())]
    for per_case in tables:
        for case in ("case0", "case1", "case2"):
            del per_case[case]
    printed = table(models)
    assert printed.count("too few cases for a test (5: ") == 3 and "p = " not in printed and "Wilcoxon" not in printed


def test_the_same_model_twice_does_not_differ() -> None:
    assert all(row["p"] == 1 and row["mean"] == 0 for row in compare([_summary(0, 0.3), _summary(0, 0.3)]))


def test_levels_and_cases_of_one_model_only_are_left_out() -> None:
    first, second = _summary(0, 0.3), _summary(1, 0.3)
    del second["levels"][1]
    for per_case in (second["adi_per_case"], *second["dice_per_case"].values()):
        del per_case["case0"]
        for values in per_case.values():
            del values[1]
    assert {(row["noise"], row["cases"]) for row in compare([first, second])} == {(0, 7), (10, 7)}


def test_a_model_that_never_fails_is_above_the_largest_level() -> None:
    assert "above 10" in table([_summary(0, 0.0)])


def test_the_table_shows_every_noise() -> None:
    printed = table([_summary(0, 0.3), _summary(1, 0.1, "nnUNetTrainerPlain")])
    for words in ("  square", f"  {WORST}", "  random noise", "  blur", "ADI (%) under noise that scanners make"):
        assert words in printed, words


def test_the_files_hold_what_was_counted(tmp_path: Path) -> None:
    found = _sweep(0, 0.3)
    write_samples(tmp_path, found, CLASSES, "slice")
    rows = list(csv.DictReader((tmp_path / "slices.csv").open()))
    assert len(rows) == (3 + 3 + 3 + 6) * 24 * 2
    for name, one in found.found.items():
        assert sum(int(row["tp"]) for row in rows if row["noise"] == name) == one.counts[..., 0].sum()
    assert not math.isnan(_summary(0, 0.3)["adi_area"])


BOX = np.pad(np.ones((1, 4, 4), bool), ((0, 0), (2, 2), (2, 2)))
GREY = picture(np.eye(8, dtype=np.float32), 0, 1)
CHECKS = [
    {"name": "Huge noise leaves nothing", "verdict": "PASS", "figure": "Dice 0.0", "wanted": "at most 5"},
    {"name": "The loss does not saturate", "verdict": "WARN", "figure": "Dice 20.0, 15.0", "wanted": "at most 3"},
]


def _report(folder: Path, models: list[dict[str, Any]]) -> str:
    run = {"date": "2026-11-21T00:00:00+00:00", "device": "cpu (x)", "seconds": 3}
    content = results(models, repeatable(Choice((5.0, 10.0)), ["nnunet-ima-eval", "--noise", "5,10"]), run)
    frames = [Frame(level, 0.8, GREY, GREY, outline(BOX)) for level in (0.0, 5.0, 10.0)]
    picture = Picture("Worst", "Worst: <case>, slice 3", new_figure(1, 1), (8, 8), outline(BOX), frames)
    write_report(folder, content, [(5.0, [picture])] * len(models), ["bWFyZ2lucw=="] + [None] * (len(models) - 1))
    return (folder / "report.html").read_text()


def test_the_report_needs_nothing_beside_it_and_shows_what_was_found(tmp_path: Path) -> None:
    surrogate = {
        "trainer": "nnUNetTrainerX",
        "plans": "nnUNetPlansY",
        "fold": "3",
        "checkpoint": "checkpoint_best.pth",
        "checkpoint_sha256": "abcdef" * 10,
    }
    models = [
        _summary(0, 0.3) | {"audit": CHECKS, "transfer_from": surrogate},
        _summary(1, 0.1, "nnUNetTrainerPlain") | {"audit": CHECKS[:1]},
    ]
    text = _report(tmp_path, models)
    parsed = Wellformed()
    parsed.feed(text)
    assert parsed.open == [] and not parsed.outside
    for model in models:
        for level in model["levels"]:
            assert f"<strong>{level['adi']:.1f}</strong>" in text
    assert "Take the figures of nnUNetTrainerIMA with care" in text
    assert "Take the figures of nnUNetTrainerPlain with care" not in text
    assert "The loss does not saturate" in text and "Worst: &lt;case&gt;, slice 3" in text
    assert "nnunet-ima-eval --noise 5,10" in text and "bWFyZ2lucw==" in text and "62.5 HU" not in text
    assert f"{models[0]['levels'][1]['rms_in_units']:.3g} HU" in text
    from_whom = (
        "noise transferred from nnUNetTrainerX, nnUNetPlansY, fold 3, checkpoint_best.pth, SHA-256 abcdefabcdefabcd"
    )
    assert text.count(from_whom) == 1


def test_a_report_of_one_model_compares_nothing(tmp_path: Path) -> None:
    text = _report(tmp_path, [_summary(0, 0.3)])
    for name in ("robustness", "corruptions", "slice_worst"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert "Do the models differ?" not in text and "Can the attack be trusted?" not in text


class Wellformed(HTMLParser):
    """Tags that were opened and not closed; links that lead outside of the file."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [
            value
            for name, value in attrs
            if name in ("src", "href") and value and value[:5] != "data:" and value[0] != "#"
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
