"""3D models through the commands a user types: planned, trained, attacked, exported."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nnunet_ima.cli.check_predictions import check_predictions
from nnunet_ima.cli.eval import evaluate
from nnunet_ima.cli.ladder import ladder
from nnunet_ima.cli.plan import plan
from nnunet_ima.cli.soup import soup
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.calibration import TARGETS, TOLERANCE
from nnunet_ima.metrics.indices import average_dice_index
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import Workspace, train_here, use_folders
from tests.predictions import assert_same_predictions

VOLUMES = "nnUNetTrainerIMA__nnUNetPlansVolumes__3d_fullres"
WHICH = ("-d", "902", "-device", "cpu", "-tr", "nnUNetTrainerIMA")


@pytest.fixture(scope="module")
def hardened(workspace: Workspace, in_3d: Workspace) -> Iterator[Workspace]:
    """A 3D model and a 2D model of the same cases, trained for a moment."""
    shutil.rmtree(workspace.results, ignore_errors=True)
    settings = ("-d", "D902", "--noise-max", "8", "--threshold", "0", "--epochs", "1", "--iterations", "2")
    short = ("--val-iterations", "1", "--steps", "2", "--batch-size", "2", "--ladder", "1")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(workspace, patch)
        for configuration, name in (("3d_fullres", "nnUNetPlansVolumes"), ("2d", "nnUNetPlansSlices")):
            plan([*settings, *short, "-c", configuration, "-o", name])
            train_here(workspace, "nnUNetTrainerIMA", name, configuration)
    yield workspace
    shutil.rmtree(workspace.results, ignore_errors=True)


@pytest.fixture
def ready(hardened: Workspace, in_process: Workspace) -> Workspace:
    return hardened


def evaluated(tmp_path: Path, *flags: str) -> dict[str, Any]:
    evaluate([*WHICH, "-o", str(tmp_path), *flags])
    content: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    return content


def test_a_volume_is_a_sample(ready: Workspace, tmp_path: Path) -> None:
    """Dice of each case, and at noise 0 that of nnU-Net's own prediction where nothing is resampled or mirrored."""
    flags = (
        "-c",
        "3d_fullres",
        "--noise",
        "20",
        "--steps",
        "3",
        "--volumes",
        "--surface",
        "2",
        "--corruptions",
        "blur",
        "--calibrated",
    )
    model = evaluated(tmp_path, *flags)["models"][0]
    blur = model["corruptions"]["blur"]["levels"]
    assert all(level["ssim"] == pytest.approx(TARGETS[level["severity"]], abs=TOLERANCE) for level in blur[1:])
    assert (model["sample"], model["slices"], model["cases"]) == ("volume", 2, 2)
    assert [level["noise"] for level in model["levels"]] == [0, 20]
    shape = (11, 64, 64)
    assert model["levels"][1]["rms_per_pixel"] == pytest.approx(20 / np.prod(shape) ** 0.5, rel=0.1)
    assert model["levels"][0]["case_dice"] == pytest.approx(model["levels"][0]["adi"])
    assert [volume["noise"] for volume in model["volumes"]] == [0, 20] and "nsd" in model["volumes"][0]
    folder = tmp_path / f"{VOLUMES}__fold_0"
    rows = [
        row for row in csv.DictReader((folder / "volumes.csv").open()) if row["noise"] == "pgd" and row["level"] == "0"
    ]
    counts = [
        [[int(row[key]) for key in ("tp", "fp", "fn")] for row in rows if row["case"] == case]
        for case in {row["case"] for row in rows}
    ]
    assert model["levels"][0]["adi"] == pytest.approx(100 * average_dice_index(counts), abs=1e-3)
    with (folder / "volumes.csv").open() as file:
        norms = {float(row["perturbation_norm"]) for row in csv.DictReader(file) if row["level"] == "20"}
    assert min(norms) > 0 and max(norms) <= 20 * (1 + 1e-5)
    assert {file.name for file in folder.glob("*.png")} >= {f"volume_worst_{axis}.png" for axis in range(3)}
    page = (folder / "report.html").read_text()
    assert "mean Dice of the volumes" in page and "mean Dice of the slices" not in page


def test_a_patch_is_a_sample(ready: Workspace, tmp_path: Path) -> None:
    """The cheaper protocol: noise per patch."""
    content = evaluated(tmp_path, "-c", "3d_fullres", "--per", "patch", "--noise", "10", "--steps", "2", "--smallest")
    model = content["models"][0]
    plans = json.loads((ready.results / VOLUMES / "plans.json").read_text())
    patch = plans["configurations"]["3d_fullres"]["patch_size"]
    assert model["sample"] == "patch" and model["slices"] > model["cases"] == 2
    assert model["levels"][1]["rms_per_pixel"] == pytest.approx(10 / np.prod(patch) ** 0.5, rel=1e-6)
    assert model["smallest"]["largest"] == 10
    folder = tmp_path / f"{VOLUMES}__fold_0"
    with (folder / "patches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({(row["case"], row["patch"]) for row in rows}) == model["slices"]
    assert max(float(row["perturbation_norm"]) for row in rows if row["noise"] == "pgd") <= 10 * (1 + 1e-5)
    page = (folder / "report.html").read_text()
    assert "mean Dice of the patches" in page and "mean Dice of the slices" not in page


def test_a_preview_shows_adversarial_noise_in_three_planes(ready: Workspace, tmp_path: Path) -> None:
    told = ["-d", "D902", "-c", "3d_fullres", "-o", "nnUNetPlansSeen", "--noise", "10", "-device", "cpu"]
    plan([*told, "--preview", str(tmp_path / "seen.png"), "-tr", "nnUNetTrainerIMA", "-mp", "nnUNetPlansVolumes"])
    (ready.preprocessed / "nnUNetPlansSeen.json").unlink()
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.height > picture.width, "three planes, each in three rows"


@pytest.mark.slow
def test_slices_and_volumes_on_one_footing(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = evaluated(tmp_path, "-c", "2d,3d_fullres", "--rms", "0.2", "--steps", "2", "--slices", "all")
    slices, volumes = content["models"]
    assert (slices["sample"], volumes["sample"]) == ("slice", "volume")
    assert all(model["levels"][1]["rms_per_pixel"] == 0.2 for model in content["models"])
    assert (slices["slices"], volumes["slices"]) == (20, 2)
    assert {row["class"] for row in content["comparisons"]} == {"whole cases"}
    with (tmp_path / f"{VOLUMES}__fold_0" / "volumes.csv").open() as file:
        norms = [
            float(row["perturbation_norm"])
            for row in csv.DictReader(file)
            if row["noise"] == "random" and row["level"] == "0.2"
        ]
    assert norms[0] == pytest.approx(0.2 * (11 * 64 * 64) ** 0.5, rel=0.1)
    assert "Dice of whole cases (%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("-c", "3d_fullres", "--noise", "5", "--slices", "all"),
            r"--slices all is for 2D models, of .* whole cases count",
        ),
        (("-c", "2d,3d_fullres", "--noise", "5"), "--noise would put less noise on the voxels of .* --rms"),
        (("-c", "3d_fullres", "--noise", "5", "--per", "patch", "--volumes"), "--per patch gives the voxels of"),
        (("-c", "2d", "--noise", "5", "--per", "patch"), "--per patch is for 3D models, a 2D model is attacked slice"),
        (("-c", "3d_fullres", "--rms", "0.1", "--audit"), "--rms goes without --audit"),
        (("-c", "3d_fullres", "--rms", "0.1", "--smallest"), "--rms goes without --smallest"),
        (
            ("-c", "3d_lowres", "--noise", "5"),
            "No trained model with a checkpoint_final.pth for -d Dataset902_PhantomHeart -c 3d_lowres",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_volumes_cannot_do_is_one_sentence(
    ready: Workspace, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate([*WHICH, "-o", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_volumes_without_noise_are_nnunets_validation(ready: Workspace, tmp_path: Path) -> None:
    """nnU-Net's own predictions, voxel for voxel."""
    train = ("nnUNetv2_train", "902", "3d_fullres", "0", "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansVolumes")
    ready.run(*train, "-device", "cpu", "--val", nnUNet_extTrainer=str(DISCOVERY))
    model = evaluated(tmp_path, "-c", "3d_fullres", "--noise", "20", "--steps", "2", "--save-volumes")["models"][0]
    folder = tmp_path / f"{VOLUMES}__fold_0" / "volumes"
    validation = ready.results / VOLUMES / "fold_0" / "validation"
    assert_same_predictions(folder / "noise_0", validation)
    ours, theirs = (json.loads((one / "summary.json").read_text()) for one in (folder / "noise_0", validation))
    assert ours["foreground_mean"]["Dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], abs=5e-4)
    assert model["volumes"][0]["foreground_dice"] == pytest.approx(100 * ours["foreground_mean"]["Dice"], abs=1e-3)
    assert len(list((folder / "noise_20" / "images").glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_predictions_of_volumes_are_put_in_order(ready: Workspace, tmp_path: Path) -> None:
    told = ("-d", "902", "-c", "3d_fullres", "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansVolumes", "-f", "0")
    check_predictions(
        [*told, "-device", "cpu", "-o", str(tmp_path / "check"), "--largest", "40", "--corruptions", "blur"]
    )
    with (tmp_path / "check" / "cases.csv").open() as file:
        assert {"case", "smallest_noise"} <= set(next(csv.reader(file)))


@pytest.mark.slow
def test_the_ladder_and_the_dial_of_volumes(ready: Workspace, tmp_path: Path) -> None:
    """A mix of a model with itself has the same Dice at every share."""
    told = ["-d", "902", "-c", "3d_fullres", "-tr", "nnUNetTrainerIMA", "-p", "nnUNetPlansVolumes", "-f", "0"]
    measured = ["--noise", "20", "--steps", "2", "--attack", "pgd", "--cases", "heldout", "-device", "cpu"]
    ladder([*told, *measured, "--keep", "0"])
    fold = ready.results / VOLUMES / "fold_0"
    with (fold / "ladder.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    soup([*told, *measured, "--plain", str(fold / "checkpoint_ladder_001.pth"), "-o", str(tmp_path / "mixed")])
    with (tmp_path / "mixed" / "soup.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and len({(row["0"], row["20"]) for row in rows}) == 1
