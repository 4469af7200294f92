"""A hardened model where nnunet_ima cannot be imported."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.cli.export import export
from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import DATASET, Workspace, train_here

MODEL = "nnUNetTrainerIMA__nnUNetPlansExport__2d"
BLOCK = {"noise_max": 5.0, "epochs": 1, "iterations": 2, "val_iterations": 1, "steps": 2, "threshold": 0.0, "ema": 0.5}
BLOCKER = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nnunet_ima":
            raise ImportError("nnunet_ima is not installed here")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Iterator[Workspace]:
    """An IMA model with margins, whose weights are an average."""
    workspace.write_plans("nnUNetPlansExport", BLOCK)
    train_here(workspace, "nnUNetTrainerIMA", "nnUNetPlansExport")
    yield workspace
    shutil.rmtree(workspace.results / MODEL)


@pytest.fixture(scope="module")
def predicted(trained: Workspace) -> Workspace:
    """Two raw images, and the model's predictions of them with the package."""
    workspace = trained
    images = workspace.folder / "two_images"
    images.mkdir()
    for image in sorted((workspace.folder / "raw" / DATASET / "imagesTr").iterdir())[:2]:
        shutil.copy(image, images)
    workspace.run(
        "nnUNetv2_predict",
        "-i",
        str(images),
        "-o",
        str(workspace.folder / "with"),
        "-d",
        "902",
        "-c",
        "2d",
        "-f",
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansExport",
        "-device",
        "cpu",
        "-npp",
        "1",
        "-nps",
        "1",
        nnUNet_extTrainer=str(DISCOVERY),
    )
    return workspace


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nnunet_ima cannot be imported, in no process."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text(BLOCKER)
    return {"PYTHONPATH": str(folder), "nnUNet_extTrainer": ""}


def _hashes(folder: Path) -> list[tuple[str, str]]:
    return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in sorted(folder.glob("*.nii.gz"))]


@pytest.mark.slow
def test_the_environment_really_lacks_the_package(predicted: Workspace, without: dict[str, Any]) -> None:
    done = predicted.run("python", "-c", "import nnunet_ima", check=False, **without)
    assert "nnunet_ima is not installed here" in done.stderr
    done = predicted.run(
        "nnUNetv2_predict",
        "-i",
        "two_images",
        "-o",
        "none",
        "-d",
        "902",
        "-c",
        "2d",
        "-f",
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansExport",
        "-device",
        "cpu",
        check=False,
        **without,
    )
    assert done.returncode != 0


@pytest.mark.slow
def test_stock_nnunet_predicts_the_same_from_the_exported_folder(
    predicted: Workspace, without: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "model"
    printed = predicted.run("nnunet-ima-export", "-d", "D902", "-p", "nnUNetPlansExport", "-o", str(target)).stdout
    assert f"Wrote {target}: folds 0" in printed
    predicted.run(
        "nnUNetv2_predict_from_modelfolder",
        "-i",
        "two_images",
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(target),
        "-f",
        "0",
        "-device",
        "cpu",
        "-npp",
        "1",
        "-nps",
        "1",
        **without,
    )
    assert len(_hashes(tmp_path / "out")) == 2
    assert _hashes(tmp_path / "out") == _hashes(predicted.folder / "with")


@pytest.mark.slow
def test_the_zip_installs_with_nnunets_own_command_and_predicts_the_same(
    predicted: Workspace, without: dict[str, Any], tmp_path: Path
) -> None:
    file, results = tmp_path / "model.zip", tmp_path / "results"
    results.mkdir()
    predicted.run("nnunet-ima-export", "-d", "902", "-p", "nnUNetPlansExport", "-f", "0", "-o", str(file))
    without = without | {"nnUNet_results": str(results)}
    predicted.run("nnUNetv2_install_pretrained_model_from_zip", str(file), **without)
    predicted.run(
        "nnUNetv2_predict",
        "-i",
        "two_images",
        "-o",
        str(tmp_path / "out"),
        "-d",
        "902",
        "-c",
        "2d",
        "-f",
        "0",
        "-p",
        "nnUNetPlansExport",
        "-device",
        "cpu",
        "-npp",
        "1",
        "-nps",
        "1",
        **without,
    )
    assert _hashes(tmp_path / "out") == _hashes(predicted.folder / "with")


def test_the_checkpoint_is_nnunets_own_without_margins(trained: Workspace, tmp_path: Path) -> None:
    trained.run("nnunet-ima-export", "-d", "902", "-p", "nnUNetPlansExport", "-o", str(tmp_path / "model"))
    ours = torch.load(trained.results / MODEL / "fold_0" / "checkpoint_final.pth", weights_only=False)
    stock = torch.load(tmp_path / "model" / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert stock["trainer_name"] == "nnUNetTrainer"
    assert set(ours) - set(stock) == {"ima"}
    for name, weight in ours["network_weights"].items():
        assert torch.equal(weight, stock["network_weights"][name])


def _refused(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert not [left for left in folder.iterdir() if left.name.startswith(".")]
    return done.stderr


def test_mistakes_are_one_sentence_and_leave_nothing(trained: Workspace, in_process: Workspace, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    told = ("nnunet-ima-export", "-d", "902", "-p", "nnUNetPlansNobody", "-o", new)
    assert "holds no fold with a checkpoint_final.pth" in _refused(trained.run(*told, check=False), tmp_path)

    def refused(message: str, *arguments: str) -> None:
        with pytest.raises(UserError, match=message):
            export(["-d", "902", "-p", "nnUNetPlansExport", *arguments])

    refused("does not exist: choose another", "-f", "3", "-o", new)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    refused(f"-o {tmp_path / 'full'} exists", "-o", str(tmp_path / "full"))
    whole = trained.results / MODEL / "fold_0" / "checkpoint_final.pth"
    half = whole.with_name("half.pth")
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused("half.pth is damaged", "-chk", "half.pth", "-o", new)
    assert not Path(new).exists() and not [left for left in tmp_path.iterdir() if left.name.startswith(".")]
