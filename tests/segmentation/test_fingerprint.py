"""Margins are continued only with the data they were made with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.fingerprint import NEW_MARGINS, check_fingerprint, fingerprint
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import attack_from_the_first_step, batches, build, started

SHORT = {"noise_max": 60.0, "margin_step": 30.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 4}


def _fingerprint(workspace: Workspace, **configuration: Any) -> dict[str, Any]:
    plans = workspace.plans()
    plans["configurations"]["2d"] |= configuration
    return fingerprint(plans, "2d", json.loads((workspace.preprocessed / "dataset.json").read_text()), "l2")


def test_the_same_data_has_the_same_fingerprint_through_a_file(workspace: Workspace, tmp_path: Path) -> None:
    made = _fingerprint(workspace)
    torch.save(made, tmp_path / "made.pth")
    check_fingerprint(torch.load(tmp_path / "made.pth", weights_only=True), _fingerprint(workspace))
    check_fingerprint(made, _fingerprint(workspace, batch_size=7))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalization_schemes": ["CTNormalization"]}, "preprocessing"),
        ({"patch_size": [32, 32]}, "preprocessing"),
        ({"spacing": [1.0, 1.0]}, "preprocessing"),
    ],
    ids=str,
)
def test_other_preprocessing_is_refused_by_name(workspace: Workspace, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"belong to another {named}: .*{NEW_MARGINS}=t"):
        check_fingerprint(_fingerprint(workspace), _fingerprint(workspace, **change))


def test_all_that_differs_is_named(workspace: Workspace) -> None:
    stored = _fingerprint(workspace) | {"labels": {"labels": {"background": 0, "other": 1}}, "norm": "linf"}
    with pytest.raises(UserError, match="another labels and norm:"):
        check_fingerprint(stored, _fingerprint(workspace))


@pytest.fixture
def checkpoint(in_process: Workspace, tmp_path: Path) -> str:
    """A checkpoint with moved margins, made with a smaller patch."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT, patch_size=[32, 32])
    some = batches(trainer, 2)
    attack_from_the_first_step(trainer, some[0])
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(batch) for batch in some])
    assert (trainer.ima.store.margins != 30.0).any()
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    return file


def test_training_does_not_continue_under_other_plans(in_process: Workspace, checkpoint: str) -> None:
    again = build(in_process, nnUNetTrainerIMA, SHORT)
    plans_file = Path(again.output_folder_base) / "plans.json"
    before = plans_file.read_text()
    again.load_checkpoint(checkpoint)
    with pytest.raises(SystemExit, match="belong to another preprocessing"):
        again.on_train_start()
    assert plans_file.read_text() == before


def test_margins_start_anew_on_request(
    in_process: Workspace, checkpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(NEW_MARGINS, "t")
    again = build(in_process, nnUNetTrainerIMA, SHORT)
    again.load_checkpoint(checkpoint)
    again.on_train_start()
    again.ima_lock.release()
    assert (again.ima.store.margins == 30.0).all() and not again.ima.store.visits.any()
    assert len(again.ima_history.rows) == 1
    assert "The margins start anew, as asked for" in capsys.readouterr().out
