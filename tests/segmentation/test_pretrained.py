"""`-pretrained_weights`: hardening a model that exists."""

import subprocess
from pathlib import Path

import pytest
import torch

from nnunet_ima.nnunet.trainer_search import DISCOVERY
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.pretrained import HEADS, load_with_heads
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import build, seed_everything, started

SHORT = {"noise_max": 5.0, "epochs": 1, "iterations": 1, "val_iterations": 1, "steps": 2}


@pytest.fixture
def stock(in_process: Workspace, tmp_path: Path) -> Path:
    """A stock checkpoint whose weights differ from those of a new network."""
    trainer = started(in_process, nnUNetTrainerPlain, SHORT)
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter += 0.1
    trainer.save_checkpoint(str(tmp_path / "stock.pth"))
    return tmp_path / "stock.pth"


def test_all_weights_come_along_where_the_labels_are_the_same(in_process: Workspace, stock: Path) -> None:
    trainer = build(in_process, nnUNetTrainerIMA, SHORT)
    load_with_heads(trainer.dataset_json, trainer.network, str(stock))
    theirs = torch.load(stock, weights_only=False)["network_weights"]
    for name, weight in trainer.network.state_dict().items():
        assert torch.equal(weight, theirs[name]), name


def test_the_heads_start_anew_where_the_labels_differ(in_process: Workspace, stock: Path) -> None:
    checkpoint = torch.load(stock, weights_only=False)
    checkpoint["init_args"]["dataset_json"]["labels"] = {"background": 0, "wall": 1, "chamber": 2}
    torch.save(checkpoint, stock)
    trainer = build(in_process, nnUNetTrainerIMA, SHORT)
    before = {name: weight.clone() for name, weight in trainer.network.state_dict().items()}
    load_with_heads(trainer.dataset_json, trainer.network, str(stock))
    for name, weight in trainer.network.state_dict().items():
        assert torch.equal(weight, before[name] if HEADS in name else checkpoint["network_weights"][name]), name


@pytest.mark.parametrize("damage", ["missing", "half", "other"])
def test_what_cannot_be_loaded_is_said_in_one_sentence(in_process: Workspace, stock: Path, damage: str) -> None:
    trainer = build(in_process, nnUNetTrainerIMA, SHORT)
    if damage == "missing":
        stock.unlink()
    elif damage == "half":
        stock.write_bytes(stock.read_bytes()[:1000])
    else:
        torch.save({"network_weights": {"linear.weight": torch.zeros(2)}}, stock)
    said = {
        "missing": "does not exist",
        "half": "is damaged",
        "other": r"cannot be loaded into this network \(.*give a",
    }
    with pytest.raises(SystemExit, match=rf"stock\.pth {said[damage]}"):
        load_with_heads(trainer.dataset_json, trainer.network, str(stock))


def _train(workspace: Workspace, trainer: str, *flags: str) -> subprocess.CompletedProcess[str]:
    workspace.write_plans("nnUNetPlansPretrained", SHORT)
    return workspace.run(
        "nnUNetv2_train",
        "D902",
        "2d",
        "0",
        "-tr",
        trainer,
        "-p",
        "nnUNetPlansPretrained",
        "-device",
        "cpu",
        *flags,
        nnUNet_extTrainer=str(DISCOVERY),
    )


@pytest.mark.slow
def test_the_command_hardens_a_stock_model(workspace: Workspace, tmp_path: Path) -> None:
    """nnU-Net's own trainer writes the checkpoint, its own flag reads it."""
    seed_everything()
    first = _train(workspace, "nnUNetTrainerPlain")
    checkpoint = workspace.results / "nnUNetTrainerPlain__nnUNetPlansPretrained__2d" / "fold_0" / "checkpoint_final.pth"
    assert "segmentation heads" not in first.stdout
    done = _train(workspace, "nnUNetTrainerIMA", "-pretrained_weights", str(checkpoint))
    assert "The pretrained model has the same labels: its segmentation heads are used too." in done.stdout
    assert (workspace.results / "nnUNetTrainerIMA__nnUNetPlansPretrained__2d" / "fold_0" / "margins.csv").is_file()
