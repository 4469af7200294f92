"""nnU-Net's four label scenarios on two channels, and natural images, through the commands a user types."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from numpy.typing import NDArray

from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import EXAMPLES, Workspace, narrow

SOURCE = EXAMPLES / "Dataset903_PhantomLesion"
CASES = 5
IGNORE = 4
MODEL = "nnUNetTrainerIMA__nnUNetPlansIMA__2d"
REGIONS = {"labels": {"background": 0, "whole lesion": [1, 2, 3], "core and rim": [2, 3], "rim": 3}}
PARTS = {"labels": {"background": 0, "oedema": 1, "core": 2, "rim": 3}}


@dataclass(frozen=True)
class Scenario:
    number: int
    labels: dict[str, Any]
    regions: list[int] | None
    ignore: bool

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number}_Scenario"

    def dataset_json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((SOURCE / "dataset.json").read_text()) | {"numTraining": CASES}
        content["labels"] = self.labels["labels"] | ({"ignore": IGNORE} if self.ignore else {})
        del content["regions_class_order"]
        return content | ({"regions_class_order": self.regions} if self.regions else {})

    def classes(self) -> dict[str, list[int]]:
        """The labels of each class or region that is counted."""
        return {name: list(np.atleast_1d(label)) for name, label in self.labels["labels"].items() if label != 0}


SCENARIOS = [
    pytest.param(Scenario(911, PARTS, None, False), id="plain", marks=pytest.mark.slow),
    pytest.param(Scenario(912, REGIONS, [1, 2, 3], False), id="regions", marks=pytest.mark.slow),
    pytest.param(Scenario(913, PARTS, None, True), id="ignore", marks=pytest.mark.slow),
    # Holds what the others do; it runs always.
    pytest.param(Scenario(914, REGIONS, [1, 2, 3], True), id="regions+ignore"),
]


def _write_raw(folder: Path, scenario: Scenario) -> None:
    """The phantoms with the labels of the scenario."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(CASES):
        for channel in range(2):
            shutil.copy(SOURCE / "imagesTr" / f"lesion_{case:03d}_{channel:04d}.nii.gz", folder / "imagesTr")
        image = nibabel.load(SOURCE / "labelsTr" / f"lesion_{case:03d}.nii.gz")
        labels = np.asarray(image.dataobj)
        if not scenario.ignore:
            labels = np.where(labels == IGNORE, 0, labels).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), folder / "labelsTr" / f"lesion_{case:03d}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(scenario.dataset_json()))


def _plan(workspace: Workspace, dataset: str, configuration: str = "2d") -> None:
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", dataset[7:10], "-c", configuration, "-npfp", "1", "-np", "1")
    narrow(workspace.folder / "preprocessed" / dataset / "nnUNetPlans.json", configuration)
    workspace.run(
        "nnunet-ima-plan",
        "-d",
        dataset,
        "-c",
        configuration,
        "--noise-max",
        "5",
        "--margin-step",
        "1",
        "--threshold",
        "0",
        "--epochs",
        "2",
        "--iterations",
        "2",
        "--val-iterations",
        "1",
        "--steps",
        "3",
        "--batch-size",
        "6",
    )


def _train(workspace: Workspace, dataset: str, *flags: str, configuration: str = "2d") -> None:
    workspace.run(
        "nnUNetv2_train",
        dataset,
        configuration,
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansIMA",
        "-device",
        "cpu",
        *flags,
        nnUNet_extTrainer=str(DISCOVERY),
    )


def _references(workspace: Workspace, dataset: str) -> Callable[[str], NDArray[Any]]:
    folder = str(workspace.folder / "preprocessed" / dataset / "nnUNetPlans_2d")
    data = infer_dataset_class(folder)(folder)
    return lambda case: np.asarray(data.load_case(case)[1][:])[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_label_scenario_from_planning_to_evaluation(workspace: Workspace, scenario: Scenario) -> None:
    _write_raw(workspace.folder / "raw" / scenario.dataset, scenario)
    _plan(workspace, scenario.dataset)
    _train(workspace, scenario.dataset)
    fold = workspace.folder / "results" / scenario.dataset / MODEL / "fold_0"
    reference = _references(workspace, scenario.dataset)
    store = _check_margins(fold, reference)
    if not (scenario.regions and scenario.ignore):
        # One of them is tested always, and stays quick: that margins continue is tested in test_workflow.
        _check_resume(workspace, scenario, fold, store)
    workspace.run(
        "nnunet-ima-eval",
        "--noise",
        "1",
        "-d",
        scenario.dataset,
        "-device",
        "cpu",
        "--steps",
        "2",
        "--slices",
        "foreground",
    )
    _check_counts(fold, scenario, reference)


def _check_margins(fold: Path, reference: Callable[[str], NDArray[Any]]) -> dict[str, Any]:
    """Margins for exactly the slices with foreground; some have moved."""
    store: dict[str, Any] = torch.load(fold / "checkpoint_final.pth", weights_only=False)["ima"]["store"]
    cases = {case for case, _ in store["ids"]}
    expected = [
        [case, number]
        for case in sorted(cases)
        for number, labels in enumerate(reference(case))
        if np.isin(labels, [1, 2, 3]).any()
    ]
    assert len(cases) == CASES - 1 and store["ids"] == expected
    assert store["visits"].any()
    return store


def _check_resume(workspace: Workspace, scenario: Scenario, fold: Path, store: dict[str, Any]) -> None:
    """A third epoch with --c, in which no slice is correct: the margins are exactly those of the checkpoint."""
    file = workspace.folder / "preprocessed" / scenario.dataset / "nnUNetPlansIMA.json"
    plans = json.loads(file.read_text())
    file.write_text(json.dumps(plans | {"ima": plans["ima"] | {"epochs": 3, "threshold": 1}}))
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    _train(workspace, scenario.dataset, "--c")
    after = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert after["current_epoch"] == 3
    assert torch.equal(after["ima"]["store"]["margins"], store["margins"])


def _check_counts(fold: Path, scenario: Scenario, reference: Callable[[str], NDArray[Any]]) -> None:
    """TP + FN of every slice, level and class is what numpy counts: ignored pixels are in none of them."""
    rows = list(csv.DictReader((fold / "robustness" / "slices.csv").open()))
    assert {row["class"] for row in rows} == set(scenario.classes()) and {row["level"] for row in rows} == {"0", "1"}
    assert {row["noise"] for row in rows} == {"pgd", "random"}
    for row in rows:
        labels = reference(row["case"])[int(row["slice"])]
        positive = np.isin(labels, scenario.classes()[row["class"]]).sum()
        assert int(row["tp"]) + int(row["fn"]) == positive
        assert int(row["fp"]) <= (labels != IGNORE).sum() - positive if scenario.ignore else True
    margins = list(csv.DictReader((fold / "margins.csv").open()))
    assert [row["epoch"] for row in margins][:2] == ["0", "1"]


@pytest.mark.slow
def test_natural_images(workspace: Workspace) -> None:
    """RGB files as nnU-Net's NaturalImage2DIO reads them: every case is one slice."""
    folder = workspace.folder / "raw" / "Dataset915_Natural"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in range(6):
        inside = np.zeros((48, 64), dtype=np.uint8)
        inside[10 + case : 30, 12 : 40 + case] = 1
        colours = rng.integers(0, 90, (48, 64, 3)) + inside[..., None] * np.array([120, 20, 90])
        picture = SimpleITK.GetImageFromArray(colours.astype(np.uint8), isVector=True)
        SimpleITK.WriteImage(picture, folder / "imagesTr" / f"picture_{case}_0000.png")
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(inside), folder / "labelsTr" / f"picture_{case}.png")
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 6,
        "file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    _plan(workspace, "Dataset915_Natural")
    _train(workspace, "Dataset915_Natural")
    workspace.run("nnunet-ima-eval", "--noise", "1", "-d", "915", "-device", "cpu", "--steps", "2")
    fold = workspace.folder / "results" / "Dataset915_Natural" / MODEL / "fold_0"
    content = json.loads((fold / "robustness" / "results.json").read_text())["models"][0]
    assert content["slices"] == content["cases"] > 0 and [level["noise"] for level in content["levels"]] == [0, 1]
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["ima"]["store"]["ids"][0][1] == 0


@pytest.mark.slow
def test_volumes_with_regions_channels_and_ignored_voxels(workspace: Workspace) -> None:
    """The scenario that holds what the others do, in 3D."""
    scenario = Scenario(916, REGIONS, [1, 2, 3], True)
    _write_raw(workspace.folder / "raw" / scenario.dataset, scenario)
    _plan(workspace, scenario.dataset, "3d_fullres")
    _train(workspace, scenario.dataset, configuration="3d_fullres")
    which = ("-d", "916", "-c", "3d_fullres", "-device", "cpu")
    workspace.run(
        "nnunet-ima-eval", *which, "--noise", "20", "--steps", "2", "--attack", "pgd,strong", "--strong-steps", "1"
    )
    fold = workspace.folder / "results" / scenario.dataset / MODEL.replace("2d", "3d_fullres") / "fold_0"
    content = json.loads((fold / "robustness" / "results.json").read_text())["models"][0]
    assert content["sample"] == "volume" and content["slices"] == content["cases"] > 0
    assert content["classes"] == list(content["levels"][0]["tvdi_per_class"])
    assert {
        len(sample) for sample in torch.load(fold / "checkpoint_final.pth", weights_only=False)["ima"]["store"]["ids"]
    } == {4}
