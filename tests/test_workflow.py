"""The whole way through the commands a user types: plan, train, continue, evaluate; killed, and in two processes."""

import csv
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ima.cli.eval import evaluate
from nnunet_ima.cli.ladder import ladder
from nnunet_ima.cli.soup import soup
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.calibration import TARGETS, TOLERANCE
from nnunet_ima.evaluation.corruptions import available
from nnunet_ima.evaluation.evaluate import Choice, open_journal, plan, prepare
from nnunet_ima.evaluation.evaluate import evaluate as evaluate_one
from nnunet_ima.evaluation.journal import file_digest
from nnunet_ima.evaluation.noises import Settings
from nnunet_ima.evaluation.sweep import Sweep
from nnunet_ima.evaluation.volumes import KeptNoise, predict_volumes
from nnunet_ima.metrics.indices import average_dice_index, total_voxel_dice_index
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from nnunet_ima.segmentation.cases.models import find_models
from nnunet_ima.segmentation.cases.slices import Slice
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from tests.conftest import DATASET, IMA, PLAIN, Workspace, train
from tests.predictions import assert_same_predictions


def test_training_leaves_what_nnunet_leaves_and_the_margins(trained: Workspace) -> None:
    fold = trained.results / IMA / "fold_0"
    for name in ("checkpoint_final.pth", "progress.png", "validation/summary.json", "margins.csv", "margins.png"):
        assert (fold / name).is_file(), name
    rows = list(csv.DictReader((fold / "margins.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[-1]["correct"]) > 0
    assert not (trained.results / PLAIN / "fold_0" / "margins.csv").exists()


def test_training_tells_the_time_left(trained: Workspace) -> None:
    log = next((trained.results / IMA / "fold_0").glob("training_log_*.txt")).read_text()
    assert "1 epoch left, about 0 h" in log and "0 epochs left, about 0 h 00 min" in log


@pytest.mark.slow
def test_training_continues_with_the_margins_of_the_checkpoint(trained: Workspace, tmp_path: Path) -> None:
    """Interrupted after its first epoch, then --c: the second epoch starts from exactly the stored margins."""
    fold = trained.results / IMA / "fold_0"
    backup = tmp_path / "backup"
    shutil.copytree(fold, backup)
    first = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    plans_file = trained.preprocessed / "nnUNetPlansIMA.json"
    plans = json.loads(plans_file.read_text())
    try:
        # One epoch more than it has: no slice is correct at this threshold, so the margins must not move at all.
        plans_file.write_text(json.dumps(plans | {"ima": plans["ima"] | {"epochs": 3, "threshold": 1}}))
        train(trained, "nnUNetTrainerIMA", "--c")
        after = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        rows = list(csv.DictReader((fold / "margins.csv").open()))
    finally:
        plans_file.write_text(json.dumps(plans))
        shutil.rmtree(fold)
        shutil.copytree(backup, fold)
    assert after["current_epoch"] == 3 and [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert torch.equal(after["ima"]["store"]["margins"], first["ima"]["store"]["margins"])
    assert after["ima"]["history"][:2] == first["ima"]["history"]


def test_evaluation_alone_compares_the_models_trained_last(trained: Workspace) -> None:
    done = trained.run("nnunet-ima-eval", "--noise", "1,4", "-device", "cpu", "--steps", "3")
    assert IMA in done.stdout and PLAIN in done.stdout
    content = json.loads((trained.results / "robustness" / "results.json").read_text())
    assert [model["trainer"] for model in content["models"]] == ["nnUNetTrainerIMA", "nnUNetTrainerPlain"]
    for model in content["models"]:
        assert [level["noise"] for level in model["levels"]] == [0, 1, 4]
        for level in model["levels"]:
            assert f"{level['adi']:.2f}" in done.stdout and f"{level['tvdi']:.2f}" in done.stdout


def test_an_output_folder_that_cannot_be_written_is_said_first(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to \(Not a directory\): name another folder with -o"):
        evaluate(["--noise", "2", "-d", "902", "-device", "cpu", "-o", str(tmp_path / "file" / "out")])
    assert not capsys.readouterr().out


def test_a_refusal_leaves_no_folder_behind(ready: Workspace, tmp_path: Path) -> None:
    flags = ["--noise", "2", "-d", "902", "-device", "cpu", "-o", str(tmp_path / "deep" / "out")]
    with pytest.raises(UserError, match="--certify-samples"):
        evaluate([*flags, "--certify", "0.5", "--certify-samples", "2"])
    assert not (tmp_path / "deep").exists()


def test_setup_prints_a_line_that_makes_nnunet_find_the_trainers(workspace: Workspace) -> None:
    line = workspace.run("nnunet-ima-setup", nnUNet_extTrainer="/other").stdout.strip()
    assert line == f"export nnUNet_extTrainer=/other:{DISCOVERY}"


HEART = ("-d", "902", "-tr", "nnUNetTrainerIMA", "-device", "cpu")


@pytest.fixture
def ready(trained: Workspace, in_process: Workspace) -> Workspace:
    """Trained models, and nnU-Net's variables set in this process."""
    return trained


def _evaluated(folder: Path, *flags: str) -> Any:
    """The command in this process; the content of `results.json` without what differs from run to run."""
    evaluate([*HEART, "-o", str(folder), *flags])
    content = json.loads((folder / f"{IMA}__fold_0" / "results.json").read_text())
    content.pop("run")
    return content


@pytest.mark.slow
def test_predictions_are_put_in_order_and_the_order_is_judged(trained: Workspace, tmp_path: Path) -> None:
    """A hardened model, another checkpoint and the plain model beside it, on cases that all of them hold out."""
    plain, other = (
        trained.results / model / "fold_0" / f"checkpoint_{name}.pth"
        for model, name in ((PLAIN, "final"), (IMA, "best"))
    )
    flags = ("-o", str(tmp_path), "--plain", str(plain), "--members", str(other), "--steps", "2", "--per-case", "1")
    told = trained.run("nnunet-ima-check-predictions", *HEART, *flags, "--corruptions", "blur").stdout
    assert "Check these first:" in told and "| no corruption |" in told and "| blur, severity 3 |" in told
    content = json.loads((tmp_path / "scores.json").read_text())
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    held_out = sorted({row["case"] for row in rows})
    assert len(held_out) == 2 and len(rows) == 4
    for condition, one in zip(("none", "blur", "all together"), content["judged"], strict=True):
        own = [row for row in rows if condition in (row["corruption"], "all together")]
        risks = np.asarray([float(row["risk"]) for row in own])
        assert one["corruption"] == condition and one["random"] == pytest.approx(risks.mean(), abs=1e-2)
        for score, found in one["scores"].items():
            values = [float(row[score]) for row in own]
            if len(set(values)) == len(values):
                kept = risks[np.argsort(values)[::-1]]
                assert found["aurc"] == pytest.approx(np.mean(np.cumsum(kept) / range(1, len(kept) + 1)), abs=1e-2)
        assert set(one["scores"]) == {"pairwise_dice", "plain_dice", "smallest_noise"}
    names = {
        "answer.md",
        "cases.csv",
        "journal",
        "report.html",
        "risk_coverage.png",
        "risk_coverage.svg",
        "scores.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_mix_of_weights_is_a_model_of_stock_nnunet(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = ready.results / IMA / "fold_0"
    plain, out = fold / "checkpoint_best.pth", tmp_path / "soup"
    told = ["-d", "902", "--plain", str(plain), "--noise", "2", "-o", str(out), "-device", "cpu", "--cases", "heldout"]
    soup([*told, "--attack", "pgd", "--steps", "1", "--share", "0.25"])
    assert "Chosen: 0.25 of the hardened model" in capsys.readouterr().out
    assert {"soup.csv", "soup.png", "plans.json", "dataset.json", "fold_0"} <= {path.name for path in out.iterdir()}
    first, last, mix = (
        torch.load(file, weights_only=False)["network_weights"]
        for file in (plain, fold / "checkpoint_final.pth", out / "fold_0" / "checkpoint_final.pth")
    )
    assert all(torch.allclose(mix[name], torch.lerp(first[name], last[name], 0.25), atol=1e-6) for name in mix)
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(out), (0,), "checkpoint_final.pth")
    assert predictor.trainer_name == "nnUNetTrainer"
    assert all(torch.equal(value, mix[name]) for name, value in predictor.network.state_dict().items())


def test_a_mix_that_cannot_be_is_refused_in_one_sentence(ready: Workspace, tmp_path: Path) -> None:
    told = ["-d", "902", "--noise", "2", "-o", str(tmp_path / "soup"), "-device", "cpu", "--cases", "heldout"]
    other = torch.load(ready.results / IMA / "fold_0" / "checkpoint_final.pth", weights_only=False)
    other["init_args"]["dataset_json"]["labels"] = {"background": 0, "tumour": 1}
    torch.save(other, tmp_path / "labels.pth")
    other["init_args"].pop("dataset_json")
    other["network_weights"].popitem()
    torch.save(other, tmp_path / "network.pth")
    for flags, why in (
        (["--plain", str(tmp_path / "nowhere.pth")], "nowhere.pth does not exist: give the checkpoint"),
        (["--plain", str(tmp_path / "labels.pth")], "labels.pth has other labels than"),
        (["--plain", str(tmp_path / "network.pth")], "are different networks"),
        (["--plain", "x.pth", "--share", "2"], "--share must be a number from 0 to 1, got 2"),
        (["--plain", "x.pth", "--clean-loss", "-1"], "--clean-loss must be a number not below 0, got -1"),
        (["--plain", "x.pth", "--run", "run"], "Give either -d"),
        (["--plain", "x.pth", "-o", str(tmp_path)], "exists: give another name"),
    ):
        with pytest.raises(UserError, match=why):
            soup([*told, *flags])
    assert not (tmp_path / "soup").exists()


def test_a_ladder_of_checkpoints_is_climbed(
    ready: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = ready.results / IMA / "fold_0"
    told = ("-d", "902", "--noise", "2", "--steps", "1", "-o", str(tmp_path), "-device", "cpu", "--cases", "heldout")
    with pytest.raises(UserError, match=r"No trained 2D model with a checkpoint_ladder_001\.pth"):
        ladder(list(told))
    rungs = [fold / f"checkpoint_ladder_00{number}.pth" for number in (1, 2)]
    try:
        for rung, name in zip(rungs, ("best", "final"), strict=True):
            shutil.copy(fold / f"checkpoint_{name}.pth", rung)
        ladder([*told, "--attack", "pgd", "--keep", "0"])
    finally:
        for rung in rungs:
            rung.unlink(missing_ok=True)
    assert "Chosen: checkpoint_ladder_00" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "ladder.csv").open()))
    assert [row["checkpoint"] for row in rows] == [rung.name for rung in rungs]
    assert (tmp_path / "ladder.png").is_file()


def test_slices_csv_gives_the_figures_of_the_table_again(ready: Workspace, tmp_path: Path) -> None:
    content = _evaluated(tmp_path, "--noise", "2", "--steps", "2")
    levels = {level["noise"]: level for level in content["models"][0]["levels"]}
    counts: dict[float, dict[tuple[str, str], list[list[int]]]] = {0: {}, 2: {}}
    for row in csv.DictReader((tmp_path / f"{IMA}__fold_0" / "slices.csv").open()):
        if row["noise"] == "pgd":
            slice_counts = counts[float(row["level"])].setdefault((row["case"], row["slice"]), [])
            slice_counts.append([int(row["tp"]), int(row["fp"]), int(row["fn"])])
            assert float(row["perturbation_norm"]) <= float(row["level"]) * (1 + 1e-5)
    for noise, slices in counts.items():
        rows = list(slices.values())
        assert levels[noise]["tvdi"] == pytest.approx(100 * total_voxel_dice_index(rows), abs=1e-3)
        assert levels[noise]["adi"] == pytest.approx(100 * average_dice_index(rows), abs=1e-3)


@pytest.mark.slow
def test_many_noises_in_one_report(ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models; the second of them lends its noise to the first, and the other way round."""
    monkeypatch.setattr("nnunet_ima.evaluation.audit.QUERIES", 10)
    monkeypatch.setattr("nnunet_ima.evaluation.audit.SLICES", 3)
    evaluate(
        [
            "-d",
            "902",
            "-device",
            "cpu",
            "-o",
            str(tmp_path),
            "--noise",
            "2",
            "--attack",
            "pgd,strong,square,transfer,vanish,padam-cos,frequency",
            "--band",
            "0,0.5",
            "--vanish",
            "wall",
            "--corruptions",
            "gaussian,blur,motion",
            "--steps",
            "2",
            "--strong-steps",
            "2",
            "--queries",
            "5",
            "--audit",
        ]
    )
    content = json.loads((tmp_path / "results.json").read_text())
    names = ["strong", "square", "transfer", "vanish", "padam-cos", "frequency"]
    assert content["settings"]["settings"]["band"] == [0, 0.5]
    for model in content["models"]:
        assert list(model["others"]) == [*names, "worst of all", "random"]
        assert list(model["corruptions"]) == ["gaussian", "blur", "motion"]
        for row in range(2):
            levels = [model["levels"][row], *(one["levels"][row] for one in model["others"].values())]
            assert model["others"]["worst of all"]["levels"][row]["adi"] == min(level["adi"] for level in levels)
            assert [level["noise"] for level in levels] == [[0, 2][row]] * len(levels)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<image") >= 12 and "Noise that scanners make" in text and "Margins" in text
    for folder in (IMA, PLAIN):
        assert (tmp_path / f"{folder}__fold_0" / "report.html").is_file()


@pytest.mark.slow
def test_calibrated_severities_are_found_and_told(
    ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the terminal, in results.json and in the report."""
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.SLICES", 4)
    flags = ("--noise", "2", "--steps", "1", "--attack", "fgsm")
    content = _evaluated(tmp_path, *flags, "--corruptions", "white,undersampling", "--calibrated")
    told, report = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert content["settings"]["calibrated"] is True and "amounts" not in content["settings"]
    assert "Amounts of equal SSIM, on 4 slices:" in told
    for name, one in content["models"][0]["corruptions"].items():
        levels = one["levels"][1:]
        assert one["amounts"] == [row["amount"] for row in levels]
        assert one["severities"] == [row["severity"] for row in levels] == sorted(one["severities"])
        assert len(levels) + told.count(f"{name} comes no nearer") == 5
        for row in levels:
            assert row["ssim"] == pytest.approx(TARGETS[int(row["severity"])], abs=TOLERANCE)
            assert f"{row['amount']:g} (SSIM" in told
            assert f"{row['amount']:.4g}, SSIM {row['ssim']:.3f}" in report
        assert one["levels"][0]["ssim"] == 1 and one["levels"][0]["amount"] is None


def test_a_low_dose_needs_hounsfield_units(ready: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"normalise no channel as CT, so .* are unknown; take poisson instead\.$"):
        _evaluated(tmp_path, "--noise", "2", "--corruptions", "low-dose")


@pytest.mark.slow
def test_all_corruptions_of_ct(ready: Workspace, raw: tuple[Path, Path], tmp_path: Path) -> None:
    """Phantoms under plans that take them for CT."""
    results = tmp_path / "results"
    shutil.copytree(ready.results / IMA, results / DATASET / IMA)
    file = results / DATASET / IMA / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
    file.write_text(json.dumps(plans))
    flags = ["--noise", "2", "--steps", "1", "--corruptions", "all", "-i", str(raw[0]), "-gt", str(raw[1])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(results))
        patch.setattr("nnunet_ima.evaluation.calibration.SLICES", 2)
        content = _evaluated(tmp_path / "out", *flags)
    found = content["models"][0]["corruptions"]
    assert content["models"][0]["unit"] == "HU" and list(found) == available()
    levels = found["low-dose"]["levels"]
    assert [row["amount"] for row in levels] == [None, 2e6, 1e6, 5e5, 2e5, 1e5]
    norms = [row["mean_norm"] for row in levels]
    assert norms[0] == 0 and norms == sorted(norms) and norms[5] > 0


@pytest.mark.slow
def test_models_are_compared_under_the_same_amounts(
    ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nnunet_ima.evaluation.calibration.SLICES", 4)
    flags = ["-d", "902", "-device", "cpu", "--noise", "2", "--steps", "1", "--corruptions", "white", "-o"]
    evaluate([*flags, str(tmp_path), "--calibrated"])
    first, second = (
        one["corruptions"]["white"] for one in json.loads((tmp_path / "results.json").read_text())["models"]
    )
    assert first["amounts"] == second["amounts"]
    evaluate([*flags, str(tmp_path)])
    usual = json.loads((tmp_path / "results.json").read_text())["models"][0]["corruptions"]["white"]
    assert usual["amounts"] == [0.1, 0.2, 0.4, 0.7, 1.0] and "severities" not in usual
    assert usual["levels"][5]["mean_norm"] != first["levels"][5]["mean_norm"]


def test_linf_has_a_folder_of_its_own(ready: Workspace) -> None:
    evaluate([*HEART, "--noise", "0.05", "--norm", "linf", "--steps", "2", "--attack", "fgsm"])
    content = json.loads((ready.results / IMA / "fold_0" / "robustness" / "linf" / "fgsm" / "results.json").read_text())
    assert content["models"][0]["norm"] == "linf"
    assert content["models"][0]["levels"][1]["rms_per_pixel"] == 0.05


@pytest.mark.slow
def test_up_nested_levels(ready: Workspace) -> None:
    """Everything that goes with them, in a folder of its own."""
    evaluate([*HEART, "--noise", "1,8", "--steps", "3", "--nested", "--volumes", "--attack", "pgd,fgsm"])
    folder = ready.results / IMA / "fold_0" / "robustness" / "nested"
    content = json.loads((folder / "results.json").read_text())
    (model,) = content["models"]
    adi = [level["adi"] for level in model["levels"]]
    assert content["settings"]["nested"] and adi == sorted(adi, reverse=True)
    assert len(model["volumes"]) == 3 and model["forwards"]["random"] == 3 * model["slices"]
    assert model["strong_sample"]["forwards"] > 0 and model["forwards"]["fgsm"] <= 9 * model["slices"]
    assert "goes up the noise levels" in (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [(3,), (2, 5, 9)], ids=["once", "three times"])
def test_killed_at_any_moment_it_continues_and_ends_with_the_same(
    ready: Workspace, tmp_path: Path, kills: tuple[int, ...]
) -> None:
    """kills: the lengths of the journal at which the process is killed."""
    flags = ["--noise", "1,3", "--steps", "5", "--batch-size", "2", "--smallest", "--certify", "0.2"]
    undisturbed = _evaluated(tmp_path / "undisturbed", *flags)
    other = tmp_path / "killed"
    journal = other / f"{IMA}__fold_0" / "journal" / "rank0.jsonl"
    command = [str(Path(sys.executable).with_name("nnunet-ima-eval")), *HEART, "-o", str(other), *flags]
    lengths = [0]
    for lines in kills:
        process = subprocess.Popen(command, env=ready.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not journal.is_file() or journal.read_bytes().count(b"\n") < lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lengths.append(journal.read_bytes().count(b"\n"))
        assert process.returncode == -signal.SIGKILL and not (journal.parent.parent / "results.json").exists()
    continued = _evaluated(other, *flags)
    lengths.append(journal.read_bytes().count(b"\n"))
    assert lengths == sorted(set(lengths))
    for content in (undisturbed, continued):
        content["settings"].pop("command")
    assert continued == undisturbed


def test_only_the_slices_of_a_batch_are_in_memory(
    ready: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slices() -> int:
        return sum(isinstance(found, Slice) for found in gc.get_objects())

    alive: list[int] = []
    before, forward = slices(), TiledNetwork.forward

    def counting(self: TiledNetwork, x: torch.Tensor) -> torch.Tensor:
        alive.append(slices() - before)
        return forward(self, x)

    monkeypatch.setattr(TiledNetwork, "forward", counting)
    model = find_models(ready.results.parent, DATASET, trainers=["nnUNetTrainerIMA"])[0]
    choice = Choice((), ("fgsm",), batch_size=3, slices="all")
    subject = prepare(model, choice, ready.preprocessed.parent, torch.device("cpu"))
    evaluate_one(subject, choice, open_journal(subject, choice, tmp_path, False))
    assert len(subject.slices) > 6 and len(alive) > 4 and max(alive) == 3


@pytest.mark.slow
def test_many_cases_need_no_more_memory_than_few(ready: Workspace, tmp_path: Path) -> None:
    """The command itself; peak of the resident memory of its process."""
    peaks = []
    for count in (2, 24):
        images, labels = (tmp_path / str(count) / name for name in ("images", "labels"))
        for folder in (images, labels):
            folder.mkdir(parents=True)
        for number in range(count):
            large_case(images, labels, number)
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("nnunet-ima-eval")),
                *HEART,
                "-o",
                str(tmp_path / str(count) / "out"),
                "--noise",
                "0",
                "--slices",
                "foreground",
                "-i",
                str(images),
                "-gt",
                str(labels),
                "--batch-size",
                "4",
                "--attack",
                "fgsm",
            ],
            env=ready.environment,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
    # 22 cases more of 19 MB each, image and labels.
    assert peaks[1] - peaks[0] < 60, peaks


def large_case(images: Path, labels: Path, number: int, side: int = 256, depth: int = 50, marked: int = 2) -> None:
    """A raw case of `depth` slices, of which some have both classes of the phantoms."""
    rng = np.random.default_rng(number)
    inside = np.zeros((side, side, depth), np.uint8)
    for label in (1, 2):
        inside[60 + 20 * label : 80 + 20 * label, 60:120, :marked] = label
    image = rng.normal(100, 10, inside.shape).astype(np.float32) + 20 * inside
    geometry = np.diag([2.0, 2.0, 8.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(image, geometry), images / f"large_{number:03d}_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(inside, geometry), labels / f"large_{number:03d}.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [[], ["--nested"]], ids=["default", "nested"])
def test_two_processes_find_what_one_finds(ready: Workspace, tmp_path: Path, protocol: list[str]) -> None:
    flags = [
        "--noise",
        "1,3",
        "--attack",
        "pgd,square",
        "--steps",
        "5",
        "--queries",
        "10",
        "--batch-size",
        "4",
        *protocol,
    ]
    flags += ["--smallest", "--certify", "0.2", "--certify-samples", "60"]
    alone = _evaluated(tmp_path / "one", *flags)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "nnunet_ima.cli.eval",
            *HEART,
            "-o",
            str(tmp_path / "two"),
            *flags,
        ],
        env=ready.environment | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=True,
        capture_output=True,
    )
    folder = tmp_path / "two" / f"{IMA}__fold_0"
    together = json.loads((folder / "results.json").read_text())
    assert together["models"] == alone["models"]
    assert all((folder / "journal" / f"rank{rank}.jsonl").read_bytes().count(b"\n") > 2 for rank in range(2))


@pytest.mark.slow
def test_another_checkpoint_is_not_mixed_with_what_is_there(ready: Workspace, tmp_path: Path) -> None:
    """More levels and other noises of the same model are added to its journal; another model's are refused."""
    _evaluated(tmp_path, "--noise", "2", "--steps", "2")
    assert len(_evaluated(tmp_path, "--noise", "1,2", "--steps", "2")["models"][0]["levels"]) == 3
    with pytest.raises(UserError, match=r"another run \(batch size 32 instead of 3\).*--overwrite"):
        _evaluated(tmp_path, "--noise", "2", "--steps", "2", "--batch-size", "3")
    _evaluated(tmp_path, "--noise", "2", "--steps", "2", "--batch-size", "3", "--overwrite")


@pytest.fixture
def raw(ready: Workspace, tmp_path: Path) -> tuple[Path, Path]:
    """Two raw cases and their references in folders of their own."""
    source = ready.folder / "raw" / DATASET
    for name, folder in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / name).mkdir()
        for file in sorted((source / folder).iterdir())[:2]:
            shutil.copy(file, tmp_path / name)
    return tmp_path / "images", tmp_path / "labels"


def test_raw_images_give_what_their_preprocessed_cases_give(
    ready: Workspace, raw: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = sorted(file.name[:-7] for file in raw[1].iterdir())
    flags = ["--noise", "2", "--steps", "3"]
    content = _evaluated(tmp_path / "raw", *flags, "-i", str(raw[0]), "-gt", str(raw[1]))
    model = content["models"][0]
    assert sorted(model["adi_per_case"]) == cases and model["unit"] == "units"
    # The same cases as nnU-Net has preprocessed them.
    monkeypatch.setattr("nnunet_ima.evaluation.evaluate.held_out_cases", lambda *_: cases)
    other = _evaluated(tmp_path / "preprocessed", *flags)["models"][0]
    assert other["levels"] == model["levels"]


def test_raw_cases_that_do_not_fit_are_refused(ready: Workspace, raw: tuple[Path, Path], tmp_path: Path) -> None:
    images, labels = raw
    reference = sorted(labels.iterdir())[0]
    picture = nibabel.load(reference)
    array = np.asarray(picture.dataobj)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            _evaluated(tmp_path / "out", "--noise", "2", "-i", str(images), "-gt", str(labels))

    nibabel.save(nibabel.Nifti1Image(np.where(array == 1, 7, array), picture.affine), reference)
    refused("has the labels 7, which the model does not know")
    nibabel.save(nibabel.Nifti1Image(array[:-1], picture.affine), reference)
    refused("do not belong together")
    reference.write_bytes(b"rubbish")
    refused(f"Case {reference.name[:-7]} cannot be read")
    reference.unlink()
    refused(f"has no references for {reference.name}")
    for file in images.iterdir():
        file.unlink()
    refused("holds no images named like CASE_0000.nii.gz")


def test_whole_volumes_without_noise_are_nnunets_validation(ready: Workspace, tmp_path: Path) -> None:
    """nnU-Net's own predictions, pixel for pixel; images are the originals plus noise of the level, in geometry."""
    content = _evaluated(
        tmp_path, "--noise", "3", "--steps", "5", "--slices", "all", "--save-volumes", "--surface", "2"
    )
    folder = tmp_path / f"{IMA}__fold_0" / "volumes"
    validation = ready.results / IMA / "fold_0" / "validation"
    assert_same_predictions(folder / "noise_0", validation)
    ours, theirs = (json.loads((one / "summary.json").read_text()) for one in (folder / "noise_0", validation))
    assert ours["foreground_mean"]["Dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], abs=5e-4)
    volumes = content["models"][0]["volumes"]
    assert volumes[0]["foreground_dice"] == pytest.approx(100 * ours["foreground_mean"]["Dice"], abs=1e-3)
    # Noise need not lower it: the attack spoils Dice, and a model trained for a moment has hardly any surface right.
    assert all(0 <= volume["nsd"] <= 100 for volume in volumes) and volumes[0]["tolerance_mm"] == 2
    assert "<h3>Whole cases</h3>" in (folder.parent / "report.html").read_text()
    case = ours["metric_per_case"][0]["prediction_file"].split("/")[-1][:-7]
    original = nibabel.load(ready.folder / "raw" / DATASET / "imagesTr" / f"{case}_0000.nii.gz")
    clean, noisy = (nibabel.load(folder / f"noise_{level}" / "images" / f"{case}_0000.nii.gz") for level in (0, 3))
    assert np.allclose(clean.affine, original.affine) and np.array_equal(clean.get_fdata(), original.get_fdata())
    # Phantoms are not resampled, so that the noise of each slice is that of the level, in units of the case's SD.
    change = (noisy.get_fdata() - original.get_fdata()) / content["models"][0]["levels"][1]["rms_in_units"]
    norms = np.sqrt((change**2).sum((0, 1))) / np.sqrt(change.shape[0] * change.shape[1])
    assert 0.5 < np.median(norms) < 1.2
    assert (folder / "noise_3" / f"{case}.nii.gz").is_file()
    assert not (folder.parent / "journal" / "noise").exists()


@pytest.mark.parametrize("padding", [False, True])
def test_the_norm_of_slices_csv_is_that_of_the_saved_noise(
    ready: Workspace, raw: tuple[Path, Path], tmp_path: Path, padding: bool
) -> None:
    """Of a case smaller than the patch: all of the noise lies on the image, unless it is wanted on the padding, too."""
    for folder in raw:
        first, *others = sorted(folder.iterdir())
        for file in others:
            file.unlink()
        nibabel.save(nibabel.load(first).slicer[10:50, 6:57], first)
    case = first.name[:-7]
    choice = Choice((3.0,), settings=Settings(steps=2), images=raw[0], references=raw[1], noise_on_padding=padding)
    model = find_models(ready.results.parent, DATASET, trainers=["nnUNetTrainerIMA"])[0]
    subject = prepare(model, choice, None, torch.device("cpu"))
    journal = open_journal(subject, choice, tmp_path, False)
    keep = KeptNoise(journal, plan(choice, subject.settings)[0][0])
    summary, found = evaluate_one(subject, choice, journal, keep)
    predict_volumes(subject, found, keep, tmp_path / "volumes", save=True)
    noisy = nibabel.load(tmp_path / "volumes" / "noise_3" / "images" / f"{case}_0000.nii.gz").get_fdata()
    change = noisy - nibabel.load(raw[0] / f"{case}_0000.nii.gz").get_fdata()
    level = summary["levels"][1]
    saved = np.sqrt((change**2).sum((0, 1))) / (level["rms_in_units"] / level["rms_per_pixel"])
    norms = found.found["pgd"].norms[1]
    assert change.shape[:2] == (40, 51) and len(norms) == summary["slices"] > 3
    assert level["rms_per_pixel"] == pytest.approx(3 / np.sqrt(64 * 64 if padding else 40 * 51))
    share = [float(saved[number] / norm) for (_, number), norm in zip(found.slices, norms, strict=True)]
    assert max(share) < 0.995 if padding else share == pytest.approx([1] * len(share), rel=1e-3)


def test_classes_that_do_not_exist_cannot_vanish(ready: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--vanish liver: the model has no such class, only"):
        _evaluated(tmp_path, "--noise", "2", "--attack", "vanish", "--vanish", "liver")


def test_there_must_be_a_model_to_transfer_from(ready: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no other model than"):
        _evaluated(tmp_path, "--noise", "2", "--attack", "pgd,transfer")
    content = _evaluated(
        tmp_path, "--noise", "2", "--steps", "2", "--attack", "pgd,transfer", "--transfer-from", "nnUNetTrainerPlain"
    )
    assert "transfer" in content["models"][0]["others"]


def test_noise_of_a_surrogate_trained_anew_is_made_anew(ready: Workspace, tmp_path: Path) -> None:
    """Its name stays, its network does not: what was transferred differs, and all else is taken from the journal."""
    model, surrogate = find_models(ready.results.parent, DATASET, trainers=["nnUNetTrainerIMA", "nnUNetTrainerPlain"])
    choice = Choice((2.0,), ("pgd", "transfer"), settings=Settings(steps=3))

    def run() -> tuple[dict[str, Any], Sweep, list[str]]:
        subject = prepare(model, choice, ready.preprocessed.parent, torch.device("cpu"), surrogate)
        summary, found = evaluate_one(subject, choice, open_journal(subject, choice, tmp_path, False))
        return summary, found, (tmp_path / "journal" / "rank0.jsonl").read_text().splitlines()

    summary, found, lines = run()
    before = surrogate.checkpoint_file.read_bytes()
    state = torch.load(surrogate.checkpoint_file, weights_only=False)
    generator = torch.Generator().manual_seed(0)
    for weight in state["network_weights"].values():
        weight += 0.3 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    try:
        torch.save(state, surrogate.checkpoint_file)
        second, again, more = run()
        assert second["transfer_from"]["checkpoint_sha256"] == file_digest(surrogate.checkpoint_file)
    finally:
        surrogate.checkpoint_file.write_bytes(before)
    assert summary["transfer_from"]["checkpoint_sha256"] == file_digest(surrogate.checkpoint_file)
    assert {name: summary["transfer_from"][name] for name in ("trainer", "plans", "fold")} == {
        "trainer": "nnUNetTrainerPlain",
        "plans": "nnUNetPlansIMA",
        "fold": "0",
    }
    assert {json.loads(line)["noise"].split()[0] for line in more[len(lines) :]} == {"transfer"}
    for name, one in found.found.items():
        same = (again.found[name].counts == one.counts).all((1, 2, 3)).tolist()
        assert same == [True, name != "transfer"], name
