"""Networks and trainers of nnU-Net beside the plain U-Net and its own trainer, hardened and attacked."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_ima.cli.eval import evaluate
from nnunet_ima.nnunet.trainer_search import make_trainers_findable
from nnunet_ima.segmentation.cases.slices import held_out_cases
from tests.conftest import DATASET, Workspace, narrow, train, train_here, use_folders

BLOCK = {"noise_max": 5.0, "threshold": 0.0, "epochs": 1, "iterations": 2, "val_iterations": 1}
RESIDUAL = ["M", pytest.param("L", marks=pytest.mark.slow), pytest.param("XL", marks=pytest.mark.slow)]
STOCK = [
    "nnUNetTrainerBN",
    pytest.param("nnUNetTrainerDA5", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainerNoMirroring", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainer_250epochs", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainer_250epochs_NoMirroring", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainerNoDeepSupervision", marks=pytest.mark.slow),
    pytest.param("nnUNetTrainerDA5_10epochs", marks=pytest.mark.slow),
]


@pytest.fixture
def results(workspace: Workspace, in_process: Workspace) -> Iterator[Path]:
    yield workspace.results
    shutil.rmtree(workspace.results, ignore_errors=True)


def attacked(tmp_path: Path, plans: str, trainer: str, *flags: str) -> dict[str, Any]:
    """What nnunet-ima-eval finds of one model."""
    which = ("-d", "902", "-p", plans, "-tr", trainer, "-device", "cpu", "-o", str(tmp_path / "out"))
    evaluate([*which, "--noise", "20", "--steps", "4", *flags])
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    model: dict[str, Any] = content["models"][0]
    return model


@pytest.mark.parametrize("size", RESIDUAL)
def test_residual_encoders_are_hardened_and_attacked(
    workspace: Workspace, results: Path, tmp_path: Path, size: str
) -> None:
    """nnU-Net's recommended presets, from planning on."""
    plans = f"nnUNetResEncUNet{size}Plans"
    workspace.run("nnUNetv2_plan_experiment", "-d", "902", "-pl", f"nnUNetPlannerResEnc{size}")
    file = workspace.preprocessed / f"{plans}.json"
    narrow(file)
    # They share the preprocessed data of the plain plans.
    content = json.loads(file.read_text())
    assert content["configurations"]["2d"]["data_identifier"] == "nnUNetPlans_2d"
    assert "ResidualEncoderUNet" in content["configurations"]["2d"]["architecture"]["network_class_name"]
    name = f"Hardened{size}"
    workspace.run(
        *("nnunet-ima-plan", "-d", "902", "-p", plans, "-o", name, "--noise-max", "5", "--threshold", "0"),
        *("--epochs", "1", "--iterations", "2", "--val-iterations", "1", "--batch-size", "4", "--steps", "2"),
    )
    train_here(workspace, "nnUNetTrainerIMA", name)
    assert (results / f"nnUNetTrainerIMA__{name}__2d" / "fold_0" / "margins.csv").is_file()
    model = attacked(tmp_path, name, "nnUNetTrainerIMA", "--mirroring")
    assert model["levels"][1]["tvdi"] <= model["levels"][0]["tvdi"]


@pytest.mark.slow
def test_a_residual_encoder_of_volumes(workspace: Workspace, in_3d: Workspace, results: Path, tmp_path: Path) -> None:
    workspace.run("nnUNetv2_plan_experiment", "-d", "902", "-pl", "nnUNetPlannerResEncM")
    narrow(workspace.preprocessed / "nnUNetResEncUNetMPlans.json", "3d_fullres")
    plan = ("nnunet-ima-plan", "-d", "902", "-c", "3d_fullres", "-p", "nnUNetResEncUNetMPlans", "-o", "HardenedVolumes")
    short = ("--epochs", "1", "--iterations", "2", "--val-iterations", "1", "--batch-size", "2", "--steps", "2")
    workspace.run(*plan, "--noise-max", "5", "--threshold", "0", *short)
    train_here(workspace, "nnUNetTrainerIMA", "HardenedVolumes", "3d_fullres")
    model = attacked(tmp_path, "HardenedVolumes", "nnUNetTrainerIMA", "-c", "3d_fullres", "--mirroring")
    assert model["sample"] == "volume" and model["levels"][1]["tvdi"] <= model["levels"][0]["tvdi"]


@pytest.mark.parametrize("trainer", STOCK)
def test_models_of_stock_trainers_are_attacked(
    workspace: Workspace, results: Path, tmp_path: Path, trainer: str
) -> None:
    """Of any trainer of nnU-Net by its name; one without mirroring is not mirrored under --mirroring either."""
    workspace.write_plans("nnUNetPlansStock", BLOCK)
    with pytest.MonkeyPatch.context() as patch:
        use_folders(workspace, patch)
        make_trainers_findable()
        made: Any = get_trainer_from_args("902", "2d", 0, trainer, "nnUNetPlansStock", device=torch.device("cpu"))
        made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = 1, 2, 1
        made.run_training()
    plain = attacked(tmp_path / "plain", "nnUNetPlansStock", trainer)
    mirrored = attacked(tmp_path / "mirrored", "nnUNetPlansStock", trainer, "--mirroring")
    assert plain["levels"][1]["tvdi"] <= plain["levels"][0]["tvdi"]
    assert (mirrored["levels"] == plain["levels"]) == ("NoMirroring" in trainer)
    assert plain["dataset"] == DATASET and plain["trainer"] == trainer


@pytest.mark.slow
def test_a_hardened_first_stage_of_a_cascade(
    workspace: Workspace, in_3d: Workspace, results: Path, tmp_path: Path
) -> None:
    """In 2D: trained and attacked like any 2D model, and nnU-Net's validation hands its segmentations on."""
    plans = workspace.plans()
    plans["configurations"]["2d"]["next_stage"] = "3d_second"
    plans["configurations"]["3d_second"] = {"inherits_from": "3d_fullres", "previous_stage": "2d"}
    source = workspace.preprocessed / "nnUNetPlansTwo.json"
    source.write_text(json.dumps(plans | {"plans_name": "nnUNetPlansTwo"}))
    short = ("--epochs", "1", "--iterations", "2", "--val-iterations", "1", "--batch-size", "2", "--steps", "2")
    plan = ("nnunet-ima-plan", "-d", "902", "-p", "nnUNetPlansTwo", "-o", "HardenedTwo", "--noise-max", "5")
    workspace.run(*plan, "--threshold", "0", *short)
    train(workspace, "nnUNetTrainerIMA", "-p", "HardenedTwo")
    handed_on = results / "nnUNetTrainerIMA__HardenedTwo__2d" / "predicted_next_stage" / "3d_second"
    assert {file.name.split(".")[0] for file in handed_on.iterdir()} == set(
        held_out_cases(workspace.preprocessed, "nnUNetPlans_2d", "0")
    )
    model = attacked(tmp_path, "HardenedTwo", "nnUNetTrainerIMA")
    assert model["levels"][1]["tvdi"] <= model["levels"][0]["tvdi"]
    with pytest.raises(SystemExit, match="does not train the second stage of a cascade"):
        train_here(workspace, "nnUNetTrainerIMA", "HardenedTwo", "3d_second")
