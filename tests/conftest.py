"""A small real nnU-Net data set (cases of `data_examples`), planned and preprocessed once by nnU-Net's own commands."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.cli.plan import OF_IMA
from nnunet_ima.nnunet.trainer_search import DISCOVERY, make_trainers_findable

EXAMPLES = Path(__file__).parents[1] / "data_examples"
DATASET = "Dataset902_PhantomHeart"
CASES = 6
IMA = "nnUNetTrainerIMA__nnUNetPlansIMA__2d"
PLAIN = "nnUNetTrainerPlain__nnUNetPlansIMA__2d"


LONGEST = (
    "test_workflow",
    "test_scenarios",
    "test_export",
    "test_classify",
    "test_accelerator",
    "test_ranks",
    "test_check",
    "test_audit",
    "test_preview",
    "test_refusals",
    "test_pretrained",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@dataclass
class Workspace:
    """nnU-Net's three folders, and its commands run in subprocesses with them."""

    folder: Path
    environment: dict[str, str]

    @property
    def preprocessed(self) -> Path:
        return self.folder / "preprocessed" / DATASET

    @property
    def results(self) -> Path:
        return self.folder / "results" / DATASET

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of this environment's bin folder, its output captured; with `check`, it must exit with 0."""
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [program, *command[1:]],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def plans(self, name: str = "nnUNetPlans") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.preprocessed / f"{name}.json").read_text())
        return content

    def write_plans(self, name: str, block: Any, batch_size: int = 4, **changes: Any) -> None:
        """A copy of the plans with this "ima" block."""
        plans = self.plans() | {"plans_name": name, "ima": as_block(block)} | changes
        plans["configurations"]["2d"]["batch_size"] = batch_size
        (self.preprocessed / f"{name}.json").write_text(json.dumps(plans))


def as_block(flat: Any) -> Any:
    """Settings by name, IMA's among them, as the "ima" block of plans has them."""
    if not isinstance(flat, dict) or "methods" in flat:
        return flat
    own = {name: value for name, value in flat.items() if name in OF_IMA}
    return {name: value for name, value in flat.items() if name not in own} | {"methods": {"ima": own}}


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("nnunet")
    environment = {
        **os.environ,
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "results"),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
    }
    _copy_cases(folder / "raw" / DATASET)
    (folder / "results").mkdir()
    (folder / "preprocessed").mkdir()
    made = Workspace(folder, environment)
    # Of small cases nnU-Net's processes cost more to start than they save; it would start eight for the fingerprint.
    made.run(
        "nnUNetv2_plan_and_preprocess", "-d", "902", "-c", "2d", "-npfp", "1", "-np", "1", "--verify_dataset_integrity"
    )
    narrow(made.preprocessed / "nnUNetPlans.json")
    return made


def narrow(plans_file: Path, configuration: str = "2d") -> None:
    """A quarter of the features in each stage, as one may set in nnU-Net's plans: steps four times as fast on a CPU."""
    plans = json.loads(plans_file.read_text())
    architecture = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [features // 4 for features in architecture["features_per_stage"]]
    plans_file.write_text(json.dumps(plans))


def use_folders(workspace: Workspace, patch: pytest.MonkeyPatch) -> None:
    """nnU-Net's variables in this process, data loading without worker processes."""
    for name, value in workspace.environment.items():
        if name.startswith("nnUNet_"):
            patch.setenv(name, value)
    patch.setenv("nnUNet_n_proc_DA", "0")


@pytest.fixture(scope="session")
def in_3d(workspace: Workspace) -> Workspace:
    """The same cases preprocessed for 3d_fullres, with a narrow network and patches of a quarter of a volume."""
    plans_file = workspace.preprocessed / "nnUNetPlans.json"
    workspace.run("nnUNetv2_preprocess", "-d", "902", "-c", "3d_fullres", "-np", "1")
    plans = workspace.plans()
    plans["configurations"]["3d_fullres"]["patch_size"] = [10, 32, 32]
    plans_file.write_text(json.dumps(plans))
    for _ in range(2):
        narrow(plans_file, "3d_fullres")
    return workspace


@pytest.fixture
def in_process(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace with nnU-Net's variables set in this process, data loading without worker processes."""
    use_folders(workspace, monkeypatch)
    monkeypatch.setenv("nnUNet_extTrainer", "")
    make_trainers_findable()
    return workspace


def train(workspace: Workspace, trainer: str, *flags: str) -> None:
    workspace.run(
        "nnUNetv2_train",
        "D902",
        "2d",
        "0",
        "-tr",
        trainer,
        "-p",
        "nnUNetPlansIMA",
        "-device",
        "cpu",
        *flags,
        nnUNet_extTrainer=str(DISCOVERY),
    )


def train_here(workspace: Workspace, trainer: str, plans: str, configuration: str = "2d") -> None:
    """The same in this process, without nnU-Net's validation at the end: a quarter of the time."""
    import numpy as np
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    with pytest.MonkeyPatch.context() as patch:
        use_folders(workspace, patch)
        patch.setenv("nnUNet_extTrainer", "")
        make_trainers_findable()
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        made = get_trainer_from_args("902", configuration, 0, trainer, plans, device=torch.device("cpu"))
        made.run_training()
        made.ima_lock.release()


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Iterator[Workspace]:
    """Plain and IMA models, trained for a moment; with a threshold of 0 slices are attacked from the start."""
    # Other tests have trained models of this data set, too.
    shutil.rmtree(workspace.results, ignore_errors=True)
    workspace.run(
        "nnunet-ima-plan",
        "-d",
        "D902",
        "--noise-max",
        "5",
        "--margin-step",
        "1",
        "--threshold",
        "0",
        "--epochs",
        "2",
        "--iterations",
        "3",
        "--val-iterations",
        "1",
        "--steps",
        "4",
        "--batch-size",
        "4",
    )
    train(workspace, "nnUNetTrainerIMA")
    train(workspace, "nnUNetTrainerPlain")
    yield workspace
    shutil.rmtree(workspace.results)


def _copy_cases(target: Path) -> None:
    source = EXAMPLES / DATASET
    images = sorted((source / "imagesTr").iterdir())[:CASES]
    labels = sorted((source / "labelsTr").iterdir())[:CASES]
    for folder, files in (("imagesTr", images), ("labelsTr", labels)):
        (target / folder).mkdir(parents=True)
        for file in files:
            shutil.copy(file, target / folder)
    content = json.loads((source / "dataset.json").read_text()) | {"numTraining": CASES}
    (target / "dataset.json").write_text(json.dumps(content))
