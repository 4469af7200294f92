"""`reference/files.md` names every column and every key that is written."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnunet_ima.evaluation.check_predictions import CLEAN, Row, judgements, write_cases
from nnunet_ima.evaluation.noises import Noise
from nnunet_ima.evaluation.summary import summarise
from nnunet_ima.evaluation.sweep import Found, Sweep
from nnunet_ima.methods.history import History
from nnunet_ima.methods.margins import MarginStore
from nnunet_ima.methods.method import Tally
from nnunet_ima.report.tables import results, write_samples
from tests.docs.pages import ROOT, inline_code

PAGE = (ROOT / "docs" / "reference" / "files.md").read_text()
NAMED = {*inline_code(PAGE), *(f"{name}_interval" for name in ("tvdi", "adi", "failed"))}
CASES = ["a", "b"]
KEYED_BY_CASE = {"adi_per_case", "case_dice_per_case", "dice_per_case", "differences"}
KEYED_BY_NAME = {"tvdi_per_class", *KEYED_BY_CASE, "versions", "settings", "run"}
"""Whose keys are names of classes, cases, packages and settings."""


def found(name: str, family: Any) -> Found:
    noise = Noise(name, family, lambda *_: None, {"norm": "l2", "amounts": [1.0]})  # type: ignore[arg-type, return-value]
    return Found(noise, [0.0, 1.0], np.full((2, 2, 1, 3), 5), np.ones((2, 2)))


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    noises = [("pgd", "attack"), ("apgd", "attack"), ("random", "control"), ("blur", "corruption")]
    return Sweep([(case, 0) for case in CASES], {name: found(name, family) for name, family in noises}, 1.0)


def keys(content: Any) -> set[str]:
    """All keys of nested dictionaries, but for those that are names of other things."""
    if isinstance(content, list):
        return {key for one in content for key in keys(one)}
    if not isinstance(content, dict):
        return set()
    deeper = {key for name, one in content.items() if name not in KEYED_BY_NAME for key in keys(one)}
    return {*content, *deeper}


def test_columns_of_slices(tmp_path: Path, sweep: Sweep) -> None:
    write_samples(tmp_path, sweep, ["class"], "slice")
    with (tmp_path / "slices.csv").open() as file:
        assert set(next(csv.reader(file))) <= NAMED


def test_columns_of_margins() -> None:
    history = History()
    history.add(0, Tally(), MarginStore(["a"], 1.0), 1.0, 1)
    assert set(history.rows[0]) <= NAMED


def test_columns_and_keys_of_predictions(tmp_path: Path) -> None:
    rows = [Row(case, CLEAN, {"plain_dice": 90.0}, 10.0, 1) for case in CASES]
    write_cases(tmp_path, rows, "plain_dice")
    with (tmp_path / "cases.csv").open() as file:
        assert set(next(csv.reader(file))) <= NAMED
    assert keys(judgements(rows)) <= NAMED


def test_keys_of_results(sweep: Sweep) -> None:
    model = SimpleNamespace(told=lambda: dict.fromkeys(("trainer", "plans"), "x"))
    summaries = [summarise(model, sweep, ["class"], 100.0) for _ in range(2)]  # type: ignore[arg-type]
    content = results(summaries, {}, {})
    unnamed = keys(content) - NAMED - set(sweep.found)
    assert not unnamed, f"name {sorted(unnamed)} in reference/files.md"
    assert {"severity", "mean_norm", "size_quartiles", "effect"} <= keys(content)
