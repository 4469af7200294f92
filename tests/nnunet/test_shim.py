"""The trainers found without a variable, through a copy of nnU-Net: the real installation is left alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nnunetv2
import pytest

from nnunet_ima.nnunet.shim import MARKER, NAME

BROKEN = """
import importlib.abc, sys

class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nnunet_ima":
            raise {error}

sys.meta_path.insert(0, Broken())
"""
FIND = (
    "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find;"
    "import sys; print(find(sys.argv[1]))"
)


@pytest.fixture
def copied(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with a copy of nnU-Net, and an environment in which it comes first."""
    site = tmp_path / "site"
    shutil.copytree(Path(nnunetv2.__file__).parent, site / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__"))
    return site, {**os.environ, "PYTHONPATH": str(site), "nnUNet_extTrainer": ""}


def _setup(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "nnunet_ima.cli.setup", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _find(environment: dict[str, str], trainer: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", FIND, trainer], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_installed_nnunet_finds_the_trainers_without_a_variable(copied: tuple[Path, dict[str, str]]) -> None:
    site, environment = copied
    shim = site / "nnunetv2" / "training" / "nnUNetTrainer" / "variants" / NAME
    assert _find(environment, "nnUNetTrainerIMA").returncode != 0
    for _ in range(2):
        assert str(shim) in _setup(environment, "--install")
    assert "nnUNetTrainerTRADES5" in _find(environment, "nnUNetTrainerTRADES5").stdout
    found = _find(environment, "nnUNetTrainerIMA")
    assert "nnunet_ima.segmentation.trainer.nnUNetTrainerIMA" in found.stdout, found.stderr
    assert "Removed" in _setup(environment, "--uninstall") and not shim.exists()
    assert "Nothing to remove" in _setup(environment, "--uninstall")
    assert _find(environment, "nnUNetTrainerIMA").returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [("ModuleNotFoundError('gone', name='nnunet_ima')", ""), ("SyntaxError('broken')", "nnunet-ima cannot be used")],
    ids=["uninstalled", "broken"],
)
def test_a_leftover_shim_breaks_nothing(copied: tuple[Path, dict[str, str]], error: str, said: str) -> None:
    """nnUNetTrainer_5epochs lies behind the shim: nnU-Net imports it on the way."""
    site, environment = copied
    _setup(environment, "--install")
    (site / "sitecustomize.py").write_text(BROKEN.format(error=error))
    found = _find(environment, "nnUNetTrainer_5epochs")
    assert found.returncode == 0 and "nnUNetTrainer_5epochs'>" in found.stdout, found.stderr
    assert said in found.stdout
    assert _find(environment, "nnUNetTrainerIMA").returncode != 0


def test_a_file_of_somebody_else_is_left_alone(copied: tuple[Path, dict[str, str]]) -> None:
    site, environment = copied
    shim = site / "nnunetv2" / "training" / "nnUNetTrainer" / "variants" / NAME
    shim.write_text("mine = 1\n")
    command = [sys.executable, "-m", "nnunet_ima.cli.setup", "--install"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "does not belong to nnunet-ima" in done.stderr
    assert "Nothing to remove" in _setup(environment, "--uninstall")
    assert shim.read_text() == "mine = 1\n" and MARKER not in shim.read_text()
