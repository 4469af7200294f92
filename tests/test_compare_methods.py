"""`scripts/compare_methods.py`: what it makes of the evaluations, and a whole comparison on phantoms."""

import csv
import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import Workspace, use_folders

SCRIPT = Path(__file__).parents[1] / "scripts" / "compare_methods.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_methods", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_methods"] = module
    spec.loader.exec_module(module)
    return module


def test_slices_are_scored_as_adi_counts_them(script: ModuleType, tmp_path: Path) -> None:
    rows = [
        ("a", 0, "pgd", "attack", 0, "wall", 90, 10, 10),
        ("a", 0, "pgd", "attack", 0, "chamber", 1, 0, 9),
        ("a", 0, "pgd", "attack", 5, "wall", 0, 5, 10),
        ("a", 0, "pgd", "attack", 5, "chamber", 0, 0, 0),
        ("a", 0, "random", "control", 5, "wall", 90, 10, 10),
    ]
    with (tmp_path / "slices.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "slice", "noise", "family", "level", "class", "tp", "fp", "fn"])
        writer.writerows(rows)
    found = script.read_slices(tmp_path / "slices.csv", [0.0, 5.0])
    assert (found.samples, found.groups) == (["a 0"], ["a"])
    assert found.values[0].tolist() == pytest.approx([54.0909, 0.0], abs=1e-3)


def test_the_mean_is_over_seeds_and_the_interval_over_cases(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    samples, groups = [str(number) for number in range(90)], [str(number // 3) for number in range(90)]
    each = np.repeat(rng.normal(60, 10, 30), 3)
    first = np.column_stack([each + 4, each, each - 20])
    second = first + np.array([2.0, 2.0, 2.0])
    second[0, 0] = first[0, 0] = np.nan
    seeds = {1: script.Scores(first, samples, groups), 2: script.Scores(second, samples, groups)}
    found = script.summary(seeds)
    assert found.shape == (4, 5) and np.isfinite(found).all()
    mean, low, high, least, largest = found[-1]
    assert mean == pytest.approx(each.mean() - 10 + 1)
    assert (least, largest) == pytest.approx((mean - 1, mean + 1))
    half = 1.96 * each[::3].std() / np.sqrt(30)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)
    # Two methods on the same cases: what the cases have in common does not blur how far they are apart.
    better = {
        seed: script.Scores(one.values + np.where(np.arange(90) % 6 < 3, 1.0, 3.0)[:, None], samples, groups)
        for seed, one in seeds.items()
    }
    above, low, high = script.difference(better, seeds)[-1]
    assert above == pytest.approx(2.0)
    assert (above - low, high - above) == pytest.approx((1.96 / np.sqrt(30),) * 2, rel=0.1)
    # A run that is missing does not shift the comparison: only seeds that both have are compared.
    assert script.difference({2: better[2]}, seeds)[-1, 0] == pytest.approx(2.0)
    assert np.isnan(script.difference({3: better[2]}, seeds)).all()


def test_seeds_with_other_images_are_not_mixed_up(script: ModuleType, tmp_path: Path) -> None:
    """Each seed of a classifier has a test split of its own: an image's values are its own, whatever its place."""
    first = script.Scores(np.array([[100.0, 100.0], [0.0, 0.0]]), ["a", "b"], ["A", "B"])
    second = script.Scores(np.array([[100.0, 0.0], [100.0, 100.0]]), ["c", "a"], ["C", "A"])
    found = script.pooled({1: first, 2: second})
    assert dict(zip(found.samples, found.values.tolist(), strict=True)) == {
        "a": [100.0, 100.0, 100.0],
        "b": [0.0, 0.0, 0.0],
        "c": [100.0, 0.0, 0.0],
    }
    assert found.groups == ["A", "B", "C"]
    assert script.difference({1: first}, {1: second})[:, 0].tolist() == [0.0, 0.0, 0.0], "on what both have"
    (tmp_path / "images.csv").write_text(
        "file,group,attack,noise,right\na,A,pgd,0,1\na,A,pgd,2,0\nb,,pgd,0,1\nb,,pgd,2,1\nb,,fgsm,2,0\n"
    )
    read = script.read_images(tmp_path / "images.csv", [0.0, 2.0])
    assert (read.samples, read.groups) == (["a", "b"], ["A", "b"])
    assert read.values.tolist() == [[100.0, 0.0], [100.0, 100.0]]


def test_folds_are_pooled(script: ModuleType) -> None:
    first = script.Scores(np.array([[80.0, 10.0], [70.0, 0.0]]), ["a 0", "a 1"], ["a", "a"])
    second = script.Scores(np.array([[60.0, 5.0]]), ["b 0"], ["b"])
    found = script.stacked([first, second])
    assert (found.samples, found.groups) == (["a 0", "a 1", "b 0"], ["a", "a", "b"])
    assert found.values.tolist() == [[80.0, 10.0], [70.0, 0.0], [60.0, 5.0]]


def test_cases_are_looked_at_before_a_training(
    script: ModuleType, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folders(workspace, monkeypatch)
    told = {"d": "D902", "p": "nnUNetPlans"}
    script.check_cases(Namespace(**told, f=["0", "1"], cases="heldout"))
    with pytest.raises(UserError, match=r"--cases must be heldout, .* got another"):
        script.check_cases(Namespace(**told, f=["0"], cases="another"))
    with pytest.raises(UserError, match=r"-f 0,all: folds 0 and all both hold out .*, which would count twice"):
        script.check_cases(Namespace(**told, f=["0", "all"], cases="heldout"))


def test_each_method_of_the_classifier_gets_the_flags_that_are_its_own(script: ModuleType) -> None:
    training = ["--epochs", "5", "--noise-max=12", "--set", "trades.beta=1", "--set", "ima.beta=0.4"]
    common = ["--epochs", "5"]
    assert script.flags_of("ce", training) == ["--method", "ce", *common]
    assert script.flags_of("ima", training) == [
        "--method",
        "ima",
        *common,
        "--noise-max",
        "12",
        "--set",
        "ima.beta=0.4",
    ]
    assert script.flags_of("trades1.5", training) == [
        "--method",
        "trades",
        *common,
        "--noise-max",
        "1.5",
        "--set",
        "trades.beta=1",
    ]
    with pytest.raises(UserError, match="--methods smd5: SMD takes no noise level, write smd"):
        script.flags_of("smd5", training)
    with pytest.raises(UserError, match="no method 'none'"):
        script.flags_of("none", training)


def test_pretrained_names_a_checkpoint_of_each_seed_and_fold(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "seed_3.pth").touch()
    args = Namespace(pretrained=str(tmp_path / "seed_{seed}.pth"))
    assert script.pretrained(args, 3) == str(tmp_path / "seed_3.pth")
    with pytest.raises(UserError, match=r"--pretrained .*seed_4.pth does not exist"):
        script.pretrained(args, 4)
    (tmp_path / "seed_3_fold_1.pth").touch()
    args = Namespace(pretrained=str(tmp_path / "seed_{seed}_fold_{fold}.pth"))
    assert script.pretrained(args, 3, "1") == str(tmp_path / "seed_3_fold_1.pth")


@pytest.mark.slow
def test_methods_are_trained_attacked_and_compared(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_plans(
        "nnUNetPlansCompare", {"noise_max": 2.0, "epochs": 1, "iterations": 2, "val_iterations": 1, "steps": 2}
    )
    command = (
        "python",
        str(SCRIPT),
        "segmentation",
        "-d",
        "D902",
        "-p",
        "nnUNetPlansCompare",
        "--methods",
        "Plain,IMA,TRADES5",
        "--noise",
        "1",
        "--steps",
        "2",
        "--strong-steps",
        "2",
        "--budget",
        "60",
        "--cases",
        "heldout",
        "--seeds",
        "1,2",
        "-f",
        "0,1",
        "--jobs",
        "2",
        "--output",
        str(tmp_path / "compare"),
        "-device",
        "cpu",
    )
    first = workspace.run(*command, nnUNet_extTrainer=str(DISCOVERY), nnUNet_n_proc_DA="0")
    assert "| TRADES5 | 2 |" in first.stdout and "under strong" in first.stdout and "under pgd" in first.stdout
    assert (tmp_path / "compare" / "compare_pgd.md").is_file()
    rows = list(csv.DictReader((tmp_path / "compare" / "compare.csv").open()))
    assert [row["method"] for row in rows[::3]] == ["Plain", "IMA", "TRADES5"]
    # The first epoch, here the only one, goes by what a step may cost: IMA's cost less as long as no slice is correct.
    assert float(rows[0]["forwards"]) == 60
    assert all(0 < float(row["forwards"]) <= 90 for row in rows)
    assert [float(row["mean_above_IMA"]) for row in rows[3:6]] == [0.0, 0.0, 0.0]
    assert (tmp_path / "compare" / "compare.png").is_file()
    assert len(list((tmp_path / "compare" / "seed_1").glob("*/*IMA*/fold_*/checkpoint_final.pth"))) == 2
    again = workspace.run(*command, nnUNet_extTrainer=str(DISCOVERY), nnUNet_n_proc_DA="0")
    assert "Epoch 0" not in again.stdout, "what is there is not trained again"
