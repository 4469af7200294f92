"""What is kept of an attack until whole volumes are made of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.noises import attack
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.evaluation.volumes import KeptNoise
from tests.evaluation.test_sweep import STEPS, slices, target


def _kept(folder: Path, model: str = "a", **changes: Any) -> dict[tuple[str, int], Any]:
    """The noise of a run that is interrupted before its volumes are predicted."""
    noise = attack("pgd", replace(STEPS, **changes))
    journal = Journal(folder, {"model": model}, overwrite=True)
    keep = KeptNoise(journal, noise)
    sweep(target(), slices(), [(noise, [0.0, 2.0])], 2, journal=journal, keep=keep, progress=False)
    return {
        (case, number): delta
        for case in ("case0", "case1", "case2")
        for number, delta in keep.of_case(case, 2.0).items()
    }


@pytest.mark.parametrize("changes", [{"steps": 6}, {"model": "b", "alpha": 3.0}])
def test_noise_of_other_settings_or_another_model_is_not_reused(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = _kept(tmp_path / "same")
    again, fresh = _kept(tmp_path / "same", **changes), _kept(tmp_path / "fresh", **changes)
    assert len(again) == 5 and again.keys() == fresh.keys()
    for name, delta in again.items():
        assert np.array_equal(delta, fresh[name]) and not np.array_equal(delta, before[name])
    for name, delta in _kept(tmp_path / "same").items():
        assert np.array_equal(delta, before[name])


def test_noise_left_by_another_model_with_the_same_settings_is_not_reused(tmp_path: Path) -> None:
    _kept(tmp_path, "a")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "journal" / "noise").iterdir()}
    _kept(tmp_path, "b")
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert len(list((tmp_path / "journal" / "noise").iterdir())) == 2 * len(files)
