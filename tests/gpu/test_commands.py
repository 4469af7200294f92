"""What a user types, with -device cuda, on the phantoms and on small images."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import DATASET, Workspace
from tests.gpu.device import DEVICE, GPU, cuda_only

pytestmark = GPU

FLAG = ("-device", DEVICE.type)
BLOCK = {
    "noise_max": 5.0,
    "margin_step": 1.0,
    "threshold": 0,
    "epochs": 2,
    "iterations": 3,
    "val_iterations": 1,
    "steps": 4,
}
MODEL = "nnUNetTrainerIMA__nnUNetPlansGPU__2d"


def _command(workspace: Workspace, module: str, *flags: str) -> str:
    """One of this package's commands, installed or not."""
    return workspace.run("python", "-m", f"nnunet_ima.cli.{module}", *flags).stdout


def _train(workspace: Workspace, *flags: str) -> None:
    workspace.run(
        "nnUNetv2_train",
        "902",
        "2d",
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansGPU",
        *FLAG,
        *flags,
        nnUNet_extTrainer=str(DISCOVERY),
    )


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Iterator[Workspace]:
    workspace.write_plans("nnUNetPlansGPU", BLOCK)
    _train(workspace)
    yield workspace
    shutil.rmtree(workspace.results / MODEL)


def _levels(workspace: Workspace, folder: Path, device: str) -> list[dict[str, float]]:
    _command(
        workspace,
        "eval",
        "-d",
        "902",
        "-p",
        "nnUNetPlansGPU",
        "--noise",
        "2",
        "--steps",
        "5",
        "-o",
        str(folder),
        "-device",
        device,
    )
    content = json.loads((folder / f"{MODEL}__fold_0" / "results.json").read_text())
    assert content["run"]["device"].startswith(device)
    levels: list[dict[str, float]] = content["models"][0]["levels"]
    return levels


def test_a_model_trained_here_is_evaluated_here_as_on_the_cpu(trained: Workspace, tmp_path: Path) -> None:
    fold = trained.results / MODEL / "fold_0"
    margins = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["ima"]["store"]
    assert margins["margins"].isfinite().all() and (margins["visits"] > 0).any()
    here, there = (_levels(trained, tmp_path / device, device) for device in (DEVICE.type, "cpu"))
    assert here[0]["adi"] == pytest.approx(there[0]["adi"], abs=0.5)
    assert here[1]["adi"] == pytest.approx(there[1]["adi"], abs=3)


def test_the_exported_model_predicts_the_same(trained: Workspace, tmp_path: Path) -> None:
    images, source = tmp_path / "images", trained.folder / "raw" / DATASET / "imagesTr"
    images.mkdir()
    shutil.copy(sorted(source.iterdir())[0], images)
    shared = ("-i", str(images), "-f", "0", *FLAG, "-npp", "1", "-nps", "1")
    trained.run(
        "nnUNetv2_predict",
        *shared,
        "-o",
        str(tmp_path / "with"),
        "-d",
        "902",
        "-c",
        "2d",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansGPU",
        nnUNet_extTrainer=str(DISCOVERY),
    )
    _command(trained, "export", "-d", "902", "-p", "nnUNetPlansGPU", "-o", str(tmp_path / "model"))
    trained.run(
        "nnUNetv2_predict_from_modelfolder",
        *shared,
        "-o",
        str(tmp_path / "out"),
        "-m",
        str(tmp_path / "model"),
        nnUNet_extTrainer="",
    )
    found = [next((tmp_path / name).glob("*.nii.gz")) for name in ("with", "out")]
    here, there = (np.asarray(nibabel.load(file).dataobj) for file in found)
    # The same network on the same image, but CUDA need not add up in the same order twice.
    assert here.shape == there.shape and (here == there).mean() > 0.999


@cuda_only
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_one_model(trained: Workspace) -> None:
    """nnU-Net's own -num_gpus, nccl: the checkpoint holds margins that both ranks' visits moved."""
    kept = trained.results / f"{MODEL}_kept"
    (trained.results / MODEL).rename(kept)
    try:
        _train(trained, "-num_gpus", "2")
        file = trained.results / MODEL / "fold_0" / "checkpoint_final.pth"
        state = torch.load(file, map_location="cpu", weights_only=False)["ima"]
        assert len(state["history"]) == BLOCK["epochs"] and (state["store"]["visits"] > 0).any()
    finally:
        shutil.rmtree(trained.results / MODEL, ignore_errors=True)
        kept.rename(trained.results / MODEL)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Bright discs left or right of the middle, on noise: 16 images of each class."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :40]
    for name, centre in (("left", 12), ("right", 28)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(16):
            disc = 140.0 * ((rows - 20) ** 2 + (columns - centre - rng.normal()) ** 2 < 40)
            image = (60 + disc + rng.normal(0, 12, (40, 40))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{number:02d}.png")
    return tmp_path / "images"


def test_a_classifier_is_trained_and_evaluated(images: Path, tmp_path: Path) -> None:
    from nnunet_ima.cli.classify import classify

    run = tmp_path / "run"
    classify(
        [
            "train",
            "--data",
            str(images),
            "--output",
            str(run),
            "--image-size",
            "40",
            "--epochs",
            "3",
            "--batch-size",
            "8",
            "--steps",
            "4",
            "--learning-rate",
            "0.001",
            "--method",
            "ima",
            "--noise-max",
            "3",
            *FLAG,
        ]
    )
    state: dict[str, Any] = torch.load(run / "checkpoint_final.pth", weights_only=True, map_location="cpu")
    assert state
    classify(["eval", "--model", str(run), "--noise", "1", "--steps", "5", *FLAG])
    assert list(run.rglob("report.html"))
