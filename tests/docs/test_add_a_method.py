"""The method that the how-to guide adds, added."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import Workspace

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package of the guide, as pip would install it."""
    code, entries = re.findall(r"```(?:python|toml)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_methods.py").write_text(code)
    info = tmp_path / "my_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        entries.replace('[project.entry-points."nnunet_ima.methods"]', "[nnunet_ima.methods]").replace('"', "")
    )
    return tmp_path


@pytest.mark.slow
def test_a_method_of_ones_own_trains_nnunet_and_a_classifier(workspace: Workspace, package: Path) -> None:
    block = {"epochs": 1, "iterations": 1, "val_iterations": 1}
    workspace.write_plans("nnUNetPlansJitter", block)
    done = workspace.run(
        "nnUNetv2_train",
        "902",
        "2d",
        "0",
        "-tr",
        "nnUNetTrainerJitter5",
        "-p",
        "nnUNetPlansJitter",
        "-device",
        "cpu",
        nnUNet_extTrainer=str(DISCOVERY),
        PYTHONPATH=str(package),
    )
    assert "Jitter(steps=20" in done.stdout and "noise=5.0, beta=0.5" in done.stdout
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (package / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(package / "images" / name / f"{number}.png")
    done = workspace.run(
        "nnunet-ima-classify",
        "train",
        "--data",
        str(package / "images"),
        "--method",
        "jitter",
        "--noise-max",
        "2",
        "--epochs",
        "1",
        "--image-size",
        "40",
        "--set",
        "jitter.beta=0.3",
        "--output",
        str(package / "run"),
        "-device",
        "cpu",
        PYTHONPATH=str(package),
    )
    assert (package / "run" / "checkpoint_final.pth").is_file(), textwrap.indent(done.stdout, "  ")
