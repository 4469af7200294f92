"""Several folds through the commands: one by one on what each has not seen, and together as nnU-Net predicts."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_ima.cli.check_predictions import check_predictions
from nnunet_ima.cli.eval import evaluate
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.calibration import TARGETS, TOLERANCE
from nnunet_ima.nnunet.trainer_search import DISCOVERY, make_trainers_findable
from tests.conftest import DATASET, Workspace, use_folders
from tests.predictions import TURNED

BLOCK = {"noise_max": 5.0, "epochs": 1, "iterations": 12, "val_iterations": 1}
MODEL = "nnUNetTrainerPlain__nnUNetPlansFolds__2d"
FOLDS = (0, 1)


@pytest.fixture(scope="module")
def folds(workspace: Workspace) -> Iterator[Workspace]:
    """Two folds of a model, trained for a moment."""
    workspace.write_plans("nnUNetPlansFolds", BLOCK)
    with pytest.MonkeyPatch.context() as patch:
        use_folders(workspace, patch)
        patch.setenv("nnUNet_extTrainer", "")
        make_trainers_findable()
        for fold in FOLDS:
            torch.manual_seed(fold)
            made: Any = get_trainer_from_args(
                "902", "2d", fold, "nnUNetTrainerPlain", "nnUNetPlansFolds", device=torch.device("cpu")
            )
            made.run_training()
            made.ima_lock.release()
        yield workspace
    shutil.rmtree(workspace.results / MODEL)


@pytest.fixture
def ready(folds: Workspace, in_process: Workspace) -> Workspace:
    return folds


@pytest.fixture
def unseen(ready: Workspace, tmp_path: Path) -> tuple[Path, Path]:
    """Two cases under names that no fold knows, and their references."""
    source = ready.folder / "raw" / DATASET
    for name, folder, ending in (("images", "imagesTr", "_0000.nii.gz"), ("labels", "labelsTr", ".nii.gz")):
        (tmp_path / name).mkdir()
        for number, file in enumerate(sorted((source / folder).iterdir())[:2]):
            shutil.copy(file, tmp_path / name / f"new_{number}{ending}")
    return tmp_path / "images", tmp_path / "labels"


def evaluated(*flags: str) -> None:
    evaluate(["-d", "902", "-p", "nnUNetPlansFolds", "-device", "cpu", "--steps", "3", *flags])


def rows_of(folder: Path, noise: str = "pgd") -> dict[tuple[str, ...], list[int]]:
    """The counts of slices.csv by case, slice, level and class."""
    with (folder / "slices.csv").open(newline="") as file:
        return {
            (row["case"], row["slice"], row["level"], row["class"]): [int(row[key]) for key in ("tp", "fp", "fn")]
            for row in csv.DictReader(file)
            if row["noise"] == noise
        }


def test_folds_are_pooled(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("--noise", "2", "-f", "0,1")
    told = capsys.readouterr().out
    assert "fold 0 alone" in told and "fold 1 alone" in told
    model = ready.results / MODEL
    together = model / "crossval_results_folds_0_1" / "robustness"
    each = [rows_of(model / f"fold_{fold}" / "robustness") for fold in FOLDS]
    assert not each[0].keys() & each[1].keys()
    assert rows_of(together) == each[0] | each[1]
    summary = json.loads((together / "results.json").read_text())["models"][0]
    assert summary["fold"] == "0,1" and summary["cases"] == len({key[0] for key in each[0] | each[1]})
    report = (together / "report.html").read_text()
    assert "Fold by fold" in report and "folds 0, 1, each on the cases that it has not seen" in report
    # What is there already is not attacked again, and nnU-Net's way to name folds gives the same.
    evaluated("--noise", "2", "-f", "0", "1")
    assert rows_of(together) == each[0] | each[1]


@pytest.mark.slow
def test_folds_share_their_calibrated_severities(
    ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.SLICES", 4)
    told = ("--noise", "2", "--steps", "1", "--corruptions", "white", "--calibrated", "-o", str(tmp_path))
    evaluated(*told, "-f", "0,1")
    assert capsys.readouterr().out.count("Amounts of equal SSIM") == 1
    together, *each = (
        json.loads((tmp_path / f"{MODEL}__{name}" / "results.json").read_text())["models"][0]
        for name in ("crossval_results_folds_0_1", "fold_0", "fold_1")
    )
    amounts = [one["corruptions"]["white"]["amounts"] for one in (together, *each)]
    assert amounts[0] == amounts[1] == amounts[2] and len(amounts[0]) == 5
    for row, level in enumerate(together["corruptions"]["white"]["levels"]):
        found = [one["corruptions"]["white"]["levels"][row]["ssim"] for one in each]
        weights = [one["slices"] for one in each]
        assert level["ssim"] == pytest.approx(np.average(found, weights=weights), abs=1e-4)


@pytest.mark.slow
def test_an_ensemble_has_calibrated_severities_and_volumes(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.SLICES", 2)
    images, labels = unseen
    told = ("--noise", "2", "--steps", "1", "--corruptions", "gaussian", "--calibrated", "-o", str(tmp_path / "out"))
    evaluated(*told, "--ensemble", "--volumes", "--noise-on-padding", "-i", str(images), "-gt", str(labels))
    file = tmp_path / "out" / f"{MODEL}__ensemble_folds_0_1" / "results.json"
    model = json.loads(file.read_text())["models"][0]
    kept = [level["ssim"] for level in model["corruptions"]["gaussian"]["levels"]]
    assert kept == pytest.approx([1, *TARGETS.values()], abs=TOLERANCE) and len(model["volumes"]) == 2


def test_a_sample_is_attacked_more_strongly_without_being_asked(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows what `--attack pgd,strong` with as many steps finds on the same slices."""
    flags = ("--noise", "5,20", "--steps", "8", "-f", "0")
    evaluate(["-d", "902", "-p", "nnUNetPlansFolds", "-device", "cpu", *flags, "-o", str(tmp_path / "one")])
    told = capsys.readouterr().out
    assert "What a stronger attack leaves of 16 slices: ADI (%) under pgd, and under strong (4 x 2 steps)" in told
    folder = tmp_path / "one" / f"{MODEL}__fold_0"
    summary = json.loads((folder / "results.json").read_text())["models"][0]
    assert summary["slices"] >= 16 and "What would a stronger attack find?" in (folder / "report.html").read_text()
    both = (*flags, "--attack", "pgd,strong", "--strong-steps", "2", "-o", str(tmp_path / "both"))
    evaluate(["-d", "902", "-p", "nnUNetPlansFolds", "-device", "cpu", *both])
    folder = tmp_path / "both" / f"{MODEL}__fold_0"
    assert "strong_sample" not in json.loads((folder / "results.json").read_text())["models"][0]
    places = sorted({key[:2] for key in rows_of(folder)}, key=lambda place: (place[0], int(place[1])))
    drawn = np.random.default_rng(0).choice(len(places), 16, replace=False)
    for level in summary["strong_sample"]["levels"]:
        dice = {
            noise: [
                np.mean([2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]) for counts in counts_of(rows, place)])
                for place in (places[row] for row in drawn)
            ]
            for noise in ("pgd", "strong")
            for rows in [
                {key: counts for key, counts in rows_of(folder, noise).items() if key[2] == f"{level['noise']:g}"}
            ]
        }
        assert level["main"] == pytest.approx(100 * np.mean(dice["pgd"]), abs=1e-3)
        assert level["strong"] == pytest.approx(100 * np.mean(np.minimum(dice["pgd"], dice["strong"])), abs=1e-3)
        assert level["strong"] <= level["main"]


def counts_of(rows: dict[tuple[str, ...], list[int]], place: tuple[str, ...]) -> list[list[int]]:
    return [counts for key, counts in rows.items() if key[:2] == place]


@pytest.mark.parametrize("mirroring", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_ensemble_is_what_nnunet_predicts_with(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, mirroring: bool
) -> None:
    """Without noise the counts are those of nnUNetv2_predict's own files, under attack the Dice falls."""
    images, labels = unseen
    flags = ["--noise", "20", "--slices", "all", "-i", str(images), "-gt", str(labels), "-o", str(tmp_path / "out")]
    # Whole volumes are always mirrored.
    evaluated("--ensemble", *flags, *(["--mirroring", "--volumes"] if mirroring else []))
    found = rows_of(tmp_path / "out" / f"{MODEL}__ensemble_folds_0_1")
    ready.run(
        "nnUNetv2_predict_from_modelfolder",
        *("-i", str(images), "-o", str(tmp_path / "predicted"), "-m", str(ready.results / MODEL), "-f", "0", "1"),
        *("-device", "cpu", "-npp", "1", "-nps", "1", *([] if mirroring else ["--disable_tta"])),
        nnUNet_extTrainer=str(DISCOVERY),
    )
    same, pixels = 0, 0
    for reference in sorted(labels.iterdir()):
        truth, guess = (
            np.asarray(nibabel.load(file).dataobj) for file in (reference, tmp_path / "predicted" / reference.name)
        )
        for number in range(truth.shape[2]):
            for label, name in ((1, "chamber"), (2, "wall")):
                key = (reference.name[:-7], str(number), "0", name)
                if key not in found:
                    continue
                a, b = truth[..., number] == label, guess[..., number] == label
                theirs = [(a & b).sum(), (~a & b).sum(), (a & ~b).sum()]
                same += sum(abs(ours - int(one)) for ours, one in zip(found[key], theirs, strict=True))
                pixels += a.size
    assert pixels and same <= TURNED * pixels
    results = json.loads((tmp_path / "out" / f"{MODEL}__ensemble_folds_0_1" / "results.json").read_text())
    clean, noisy = (level["tvdi"] for level in results["models"][0]["levels"])
    assert noisy < clean and results["models"][0]["ensemble"] == "yes"
    assert results["settings"]["mirroring"] is mirroring
    if mirroring:
        compute_metrics_on_folder_simple(str(labels), str(tmp_path / "predicted"), (1, 2), num_processes=1)
        theirs = json.loads((tmp_path / "predicted" / "summary.json").read_text())
        ours = results["models"][0]["volumes"][0]["foreground_dice"]
        assert ours == pytest.approx(100 * theirs["foreground_mean"]["Dice"], abs=0.05)


def test_folds_that_do_not_fit_are_refused(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = unseen
    raw = ready.folder / "raw" / DATASET

    def refused(match: str, *flags: str) -> None:
        with pytest.raises(UserError, match=match):
            evaluated("--noise", "2", "-o", str(tmp_path / "out"), *flags)
        assert not (tmp_path / "out").exists()

    cases = ("-i", str(images), "-gt", str(labels))
    refused("fold 2; train it with nnUNetv2_train, or leave it out", "-f", "0,2")
    refused("fold all holds no case out", "-f", "0,all")
    refused("every fold would attack the same cases; add --ensemble", "-f", "0,1", *cases)
    refused("needs several folds", "--ensemble", "-f", "0", *cases)
    refused("has no imagesTs with labelsTs; give cases with -i and -gt", "--ensemble")
    refused("for single folds: leave out --ensemble", "--ensemble", "--attack", "transfer", *cases)
    known = ("-i", str(raw / "imagesTr"), "-gt", str(raw / "labelsTr"))
    refused("--ensemble: fold 0 was trained on .* give others with -i and -gt", "--ensemble", *known)
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_ima.evaluation.pooled.held_out_cases", lambda *_: ["one"])
        refused("folds 0 and 1 both hold out one, which would count twice", "-f", "0,1")
    file = ready.results / MODEL / "fold_1" / "checkpoint_final.pth"
    kept = file.read_bytes()
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["plans"]["configurations"]["2d"]["patch_size"] = [8, 8]
    torch.save(checkpoint, file)
    try:
        refused("fold 1 of .* was trained with the patch_size .8, 8., fold 0 with", "-f", "0,1")
    finally:
        file.write_bytes(kept)


def test_the_smallest_noise_of_each_slice(ready: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two folds together, in the table, the report and a file; a model that is never right fails without noise."""
    evaluated("--noise", "4", "-f", "0,1", "--smallest", "--per-structure", "--overwrite")
    assert "Smallest noise at which slices fail" in capsys.readouterr().out
    folder = ready.results / MODEL / "crossval_results_folds_0_1" / "robustness"
    found = json.loads((folder / "results.json").read_text())["models"][0]["smallest"]
    with (folder / "smallest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clean = {key[:2] for key in rows_of(folder)}
    wholes = [row for row in rows if not row["structure"]]
    assert {(row["case"], row["slice"]) for row in wholes} == clean and found["largest"] == 4
    assert sum(row["smallest_noise"] == "0" for row in wholes) == found["failing"]
    assert len(found["structures"]) == 2
    for name, one in found["structures"].items():
        own = [row for row in rows if row["structure"] == name]
        assert own and all(int(row["pixels"]) > 0 for row in own)
        assert sum(row["smallest_noise"] == "0" for row in own) == one["failing"]
    assert "At which noise does each slice fail?" in (folder / "report.html").read_text()
    assert (folder / "smallest.png").is_file()
    with pytest.raises(UserError, match="--smallest searches up to the largest level of --noise: give one above 0"):
        evaluated("--noise", "0", "-f", "0", "--smallest")
    with pytest.raises(UserError, match="--per-structure says what --smallest looks for: give --smallest, too"):
        evaluated("--noise", "4", "-f", "0", "--per-structure")


def test_a_certificate(ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two folds, in the table and the report; what is certain is never more than what the smoothed model has."""
    flags = ("--noise", "4", "-o", str(tmp_path), "--certify", "0.2", "--certify-samples", "80")
    evaluated(*flags, "-f", "0,1")
    assert "Certified Dice (%) of the model smoothed by Gaussian noise of 0.2 SD" in capsys.readouterr().out
    folder = tmp_path / f"{MODEL}__crossval_results_folds_0_1"
    found = json.loads((folder / "results.json").read_text())["models"][0]["certified"]
    assert [level["threshold"] for level in found["levels"]] == [0.75]
    assert found["levels"][0]["radius"] == pytest.approx(0.2 * 0.6745, abs=1e-3)
    assert 0 <= found["levels"][0]["adi"] <= found["adi"] and 0 <= found["levels"][0]["abstained"] <= 100
    assert "What is certain?" in (folder / "report.html").read_text()
    for sigma in ("0", "-1", "nan"):
        with pytest.raises(UserError, match=r"--certify .* must be above 0"):
            evaluated("--noise", "4", "--certify", sigma)
    with pytest.raises(UserError, match=r"--certify-samples 5 can certify nothing"):
        evaluated("--noise", "4", "-f", "0", "-o", str(tmp_path / "few"), "--certify", "1", "--certify-samples", "5")
    assert not list((tmp_path / "few").rglob("*.json*"))


def checked(folder: Path, *flags: str) -> list[dict[str, str]]:
    """The rows of cases.csv."""
    check_predictions(["-d", "902", "-p", "nnUNetPlansFolds", "-device", "cpu", "-o", str(folder), *flags])
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_without_references_are_put_in_order(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = unseen
    flags = ("-f", "0,1", "-i", str(images), "--steps", "2", "--per-case", "1")
    rows = checked(tmp_path / "out", *flags)
    told = capsys.readouterr().out
    assert [row["rank"] for row in rows] == ["1", "2"] and {row["case"] for row in rows} == {"new_0", "new_1"}
    assert float(rows[0]["pairwise_dice"]) <= float(rows[1]["pairwise_dice"]) and rows[0]["plain_dice"] == ""
    assert all(float(row["smallest_noise"]) >= 0 and row["dice"] == row["risk"] == "" for row in rows)
    assert f"Check these first: {rows[0]['case']}" in told and "plain_dice is left out: to have it, name the" in told
    assert "Without references nothing tells how well these scores work" in told
    assert not (tmp_path / "out" / "risk_coverage.png").exists()
    # What is known is not computed again, whatever gives the order.
    journal = tmp_path / "out" / "journal" / "rank0.jsonl"
    before = journal.read_bytes()
    again = checked(tmp_path / "out", *flags, "--by", "smallest_noise")
    assert journal.read_bytes() == before
    assert sorted(row["pairwise_dice"] for row in again) == sorted(row["pairwise_dice"] for row in rows)


@pytest.mark.slow
def test_scores_are_those_of_predictions_of_stock_nnunet(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path
) -> None:
    """Pairwise Dice and Dice from the files that nnUNetv2_predict writes for each fold, and for both together."""
    images, labels = unseen
    rows = checked(tmp_path / "out", "-f", "0,1", "-i", str(images), "-gt", str(labels), "--no-smallest")
    for name, folds in (("one", "0"), ("other", "1"), ("both", "0 1")):
        ready.run(
            "nnUNetv2_predict_from_modelfolder",
            *("-i", str(images), "-o", str(tmp_path / name), "-m", str(ready.results / MODEL), "-f", *folds.split()),
            *("-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"),
            nnUNet_extTrainer=str(DISCOVERY),
        )

    def dice(first: Path, second: Path) -> float:
        a, b = (np.asarray(nibabel.load(file).dataobj) for file in (first, second))
        found = [2 * ((a == k) & (b == k)).sum() / max(((a == k).sum() + (b == k).sum()), 1) for k in (1, 2)]
        there = [(a == k).any() or (b == k).any() for k in (1, 2)]
        return float(100 * np.mean(np.asarray(found)[there])) if any(there) else 100.0

    for row in rows:
        file = f"{row['case']}.nii.gz"
        assert float(row["pairwise_dice"]) == pytest.approx(
            dice(tmp_path / "one" / file, tmp_path / "other" / file), abs=0.1
        )
        assert float(row["dice"]) == pytest.approx(dice(labels / file, tmp_path / "both" / file), abs=0.1)


def test_models_and_cases_that_tell_nothing_are_refused(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = unseen
    raw, folder = ready.folder / "raw" / DATASET, ready.results / MODEL
    first, second = (str(folder / f"fold_{fold}" / "checkpoint_final.pth") for fold in FOLDS)
    cases = ("-i", str(images))

    def refused(match: str, *flags: str) -> None:
        with pytest.raises(UserError, match=match):
            checked(tmp_path / "out", *flags)
        assert not (tmp_path / "out").exists()

    refused("fold 0 was trained on .* surer than elsewhere; leave it out", "-f", "0,1", "-i", str(raw / "imagesTr"))
    refused("fold 1 was trained on", "-f", "0", "--members", second)
    refused("--plain .* is the model that is checked", "-f", "0", "--plain", first)
    refused("--members .* counts already: give each model once", "-f", "0,1", *cases, "--members", second)
    refused("hold out no case in common and .* has no imagesTs", "-f", "0,1")
    refused("--no-smallest leaves no score", "-f", "0", "--no-smallest")
    refused("--by plain_dice: there is no such score with these models; name the checkpoint", "--by", "plain_dice")
    refused("-gt .* needs the images", "-gt", str(labels))
    refused("--corruptions blur judges the scores, which needs references: add -gt", *cases, "--corruptions", "blur")
    refused("--largest 0 must be above 0", "--largest", "0")
    refused("--plain .*none.pth does not exist", "--plain", str(tmp_path / "none.pth"))
    elsewhere = tmp_path / "checkpoint_final.pth"
    shutil.copy(second, elsewhere)
    refused("--members .* is in no folder of a trained model", "-f", "0", "--members", str(elsewhere))
    with monkeypatch.context() as patch:
        patch.setattr("nnunet_ima.evaluation.corruptions.find_spec", lambda _: None)
        refused("--corruptions motion: .* need TorchIO; install it", "-f", "0", "--corruptions", "motion")
    other = tmp_path / "other" / "nnUNetTrainerPlain__nnUNetPlansFolds__2d"
    shutil.copytree(folder, other)
    described = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(described | {"labels": {"background": 0, "heart": 1, "wall": 2}}))
    with pytest.raises(UserError, match=r"--plain: .* has other labels than"):
        checked(tmp_path / "out", *cases, "-f", "0", "--plain", str(other / "fold_1" / "checkpoint_final.pth"))


def test_a_single_case_has_no_order(ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one fold on its own held-out cases only the smallest noise is left."""
    split = json.loads((ready.preprocessed / "splits_final.json").read_text())[0]["val"]
    (row,) = checked(tmp_path, "-f", "0", "--cases", split[0], "--steps", "2", "--per-case", "1")
    told = capsys.readouterr().out
    assert row["case"] == split[0] and row["pairwise_dice"] == "" and 0 <= float(row["dice"]) <= 100
    assert "stands alone: a single case has no order" in told and "AURC judges an order of cases" in told
    assert "pairwise_dice is left out: to have it, name two folds or more with -f 0,1" in told


@pytest.mark.slow
@pytest.mark.parametrize("which", [("-f", "0,1"), ("--ensemble", "--mirroring")], ids=["pooled", "ensemble"])
def test_two_processes_find_of_folds_what_one_finds(
    ready: Workspace, unseen: tuple[Path, Path], tmp_path: Path, which: tuple[str, ...]
) -> None:
    images, labels = unseen
    others = ("-i", str(images), "-gt", str(labels), "-f", "0,1") if "--ensemble" in which else ()
    flags = ("--noise", "1,3", "--batch-size", "4", "--smallest", "--per-structure", *others, *which)
    evaluated("-o", str(tmp_path / "one"), *flags)
    launched = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    model = ("-d", "902", "-p", "nnUNetPlansFolds", "-device", "cpu", "--steps", "3")
    subprocess.run(
        [*launched, "-m", "nnunet_ima.cli.eval", *model, "-o", str(tmp_path / "two"), *flags],
        env=ready.environment | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=True,
        capture_output=True,
    )
    alone, together = (
        json.loads(next((tmp_path / name).glob("*/results.json")).read_text())["models"] for name in ("one", "two")
    )
    assert together == alone
