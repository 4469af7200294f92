"""The whole way through the commands a user types: plan, train, continue, evaluate."""

import csv
import json
import shutil
from pathlib import Path

import torch

from nnunet_ima.segmentation.finding import DISCOVERY
from tests.conftest import IMA, PLAIN, Workspace, train


def test_training_leaves_what_nnunet_leaves_and_the_margins(trained: Workspace) -> None:
    fold = trained.results / IMA / "fold_0"
    for name in ("checkpoint_final.pth", "progress.png", "validation/summary.json", "margins.csv", "margins.png"):
        assert (fold / name).is_file(), name
    rows = list(csv.DictReader((fold / "margins.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["correct"]) > 0
    assert not (trained.results / PLAIN / "fold_0" / "margins.csv").exists()


def test_training_tells_the_time_left(trained: Workspace) -> None:
    log = next((trained.results / IMA / "fold_0").glob("training_log_*.txt")).read_text()
    assert "1 epoch left, about 0 h" in log and "0 epochs left, about 0 h 00 min" in log


def test_training_continues_with_the_margins_of_the_checkpoint(trained: Workspace, tmp_path: Path) -> None:
    """Interrupted after its first epoch, then --c: the second epoch starts from exactly the stored margins."""
    fold = trained.results / IMA / "fold_0"
    backup = tmp_path / "backup"
    shutil.copytree(fold, backup)
    first = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    plans_file = trained.preprocessed / "nnUNetPlansIMA.json"
    plans = json.loads(plans_file.read_text())
    try:
        # One epoch more than it has: no slice is correct at this threshold, so the margins must not move at all.
        plans_file.write_text(json.dumps(plans | {"ima": plans["ima"] | {"epochs": 3, "threshold": 1}}))
        train(trained, "nnUNetTrainerIMA", "--c")
        after = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        rows = list(csv.DictReader((fold / "margins.csv").open()))
    finally:
        plans_file.write_text(json.dumps(plans))
        shutil.rmtree(fold)
        shutil.copytree(backup, fold)
    assert after["current_epoch"] == 3 and [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert torch.equal(after["ima"]["store"]["margins"], first["ima"]["store"]["margins"])
    assert after["ima"]["history"][:2] == first["ima"]["history"]


def test_evaluation_alone_compares_the_models_trained_last(trained: Workspace) -> None:
    done = trained.run("nnunet-ima-eval", "--noise", "1,4", "-device", "cpu", "--steps", "3")
    assert IMA in done.stdout and PLAIN in done.stdout
    content = json.loads((trained.results / "robustness" / "results.json").read_text())
    assert [model["trainer"] for model in content["models"]] == ["nnUNetTrainerIMA", "nnUNetTrainerPlain"]
    for model in content["models"]:
        assert [level["noise"] for level in model["levels"]] == [0, 1, 4]
        for level in model["levels"]:
            assert f"{level['adi']:.2f}" in done.stdout and f"{level['tvdi']:.2f}" in done.stdout


def test_an_output_folder_that_cannot_be_written_is_said_first(trained: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = trained.run(
        "nnunet-ima-eval",
        "--noise",
        "2",
        "-d",
        "902",
        "-device",
        "cpu",
        "-o",
        str(tmp_path / "file" / "out"),
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Evaluating" not in done.stdout
    assert "cannot be written to (Not a directory): name another folder with -o" in done.stderr


def test_setup_prints_a_line_that_makes_nnunet_find_the_trainers(workspace: Workspace) -> None:
    line = workspace.run("nnunet-ima-setup", nnUNet_extTrainer="/other").stdout.strip()
    assert line == f"export nnUNet_extTrainer=/other:{DISCOVERY}"
