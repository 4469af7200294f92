"""`nnunet-ima-plan` on real plans."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ima.cli.plan import plan
from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.settings import Settings
from tests.conftest import Workspace


@pytest.fixture
def target(in_process: Workspace) -> Path:
    path = in_process.preprocessed / "nnUNetPlansIMA.json"
    path.unlink(missing_ok=True)
    return path


def test_the_copy_differs_by_name_block_and_batch_size_only(in_process: Workspace, target: Path) -> None:
    plan(["-d", "D902", "--noise-max", "7", "--epochs", "5", "--batch-size", "6"])
    written, original = json.loads(target.read_text()), in_process.plans()
    settings = Settings.of(written)
    assert settings.all_methods() == Settings().all_methods()
    assert replace(settings, methods={}) == Settings(noise_max=7.0, epochs=5)
    assert written.pop("plans_name") == "nnUNetPlansIMA"
    assert written["configurations"]["2d"].pop("batch_size") == 6
    del written["ima"], original["plans_name"], original["configurations"]["2d"]["batch_size"]
    assert written == original


def test_a_narrower_network_shares_the_preprocessed_data(in_process: Workspace, target: Path) -> None:
    stages = in_process.plans()["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"]
    narrower = [4 + number for number in range(len(stages))]
    plan(["-d", "D902", "--features", ",".join(map(str, narrower))])
    ours, theirs = (content["configurations"]["2d"] for content in (json.loads(target.read_text()), in_process.plans()))
    assert ours["architecture"]["arch_kwargs"].pop("features_per_stage") == narrower
    assert theirs["architecture"]["arch_kwargs"].pop("features_per_stage") == stages
    assert ours == theirs


def test_fewer_features_than_stages_leave_out_the_deepest(in_process: Workspace, target: Path) -> None:
    theirs = in_process.plans()["configurations"]["2d"]["architecture"]["arch_kwargs"]
    plan(["-d", "D902", "--features", "8,16,24"])
    ours = json.loads(target.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert ours["n_stages"] == 3 and ours["features_per_stage"] == [8, 16, 24]
    for key in ("strides", "kernel_sizes", "n_conv_per_stage"):
        assert ours[key] == theirs[key][:3]
    assert ours["n_conv_per_stage_decoder"] == theirs["n_conv_per_stage_decoder"][:2]
    plans = PlansManager(json.loads(target.read_text())).get_configuration("2d")
    network = get_network_from_plans(
        plans.network_arch_class_name,
        plans.network_arch_init_kwargs,
        plans.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )
    assert [tuple(scale.shape[2:]) for scale in network(torch.zeros(1, 1, 64, 64))] == [(64, 64), (32, 32)]


@pytest.mark.parametrize("dataset", ["902", "D902", "Dataset902_PhantomHeart"])
def test_data_sets_are_named_as_nnunet_and_as_papers_do(dataset: str, target: Path) -> None:
    plan(["-d", dataset])
    assert target.is_file()


def test_plans_copied_from_another_data_set_are_refused(in_process: Workspace, target: Path) -> None:
    in_process.write_plans("nnUNetPlansCopied", {}, dataset_name="Dataset903_Other")
    with pytest.raises(
        UserError, match="nnUNetPlansCopied are those of Dataset903_Other, not of Dataset902_PhantomHeart"
    ):
        plan(["-d", "D902", "-p", "nnUNetPlansCopied", "-o", target.stem])
    assert not target.exists()


def test_without_settings_it_says_what_the_default_noise_means(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(["-d", "D902"])
    assert "largest noise level 6.4 on patches of 1 x 64 x 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "D777"], "no data set of this number"),
        (["-d", "heart"], "must be like 4, D4"),
        (["-d", "D902", "-c", "2d_lowres"], "no such configuration, only 2d"),
        (["-d", "D902", "-p", "nnUNetPlansX"], "does not exist"),
        (["-d", "D902", "--beta", "1.5"], "beta of IMA must be a number from 0 to 1, got 1.5"),
        (["-d", "D902", "--noise-max", "-2"], "noise_max"),
        (["-d", "D902", "--noise-max", "nan"], "noise_max"),
        (["-d", "D902", "--features", "8"], "the network has 5 stages: give 2 to 5 numbers in place of 8,16,32,64,128"),
        (["-d", "D902", "--epochs", "0"], "epochs must be a whole number not below 1, got 0"),
        (["-d", "D902", "--preset", "paper"], "preset paper knows D2, D4, D5, not D902"),
        (["-d", "D902", "-o", "nnUNetPlans"], "another name"),
        (
            ["-d", "D902", "--set", "trades.margin_step=2"],
            "TRADES has no setting margin_step; it has steps, alpha, rand",
        ),
        (["-d", "D902", "--set", "trade.beta=2"], "There is no method 'trade'; known: ce, ima, amat, edge, "),
        (["-d", "D902", "--set", "trades.beta"], "--set trades.beta: write METHOD.NAME=VALUE"),
        (["-d", "D902", "--set", "mail.margin=half"], "margin of MAIL must be one of adversarial, natural, difference"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence_and_nothing_is_written(arguments: list[str], message: str, target: Path) -> None:
    before = sorted(target.parent.iterdir())
    with pytest.raises(UserError, match=message):
        plan(arguments)
    assert sorted(target.parent.iterdir()) == before


def test_of_a_cascade_the_second_stage_is_refused(
    in_process: Workspace, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = in_process.plans()
    plans["configurations"]["3d_fullres"] = plans["configurations"]["2d"] | {"patch_size": [8, 64, 64]}
    plans["configurations"]["3d_cascade"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    path = in_process.preprocessed / "nnUNetPlans3D.json"
    path.write_text(json.dumps(plans))
    try:
        with pytest.raises(UserError, match="the second stage of a cascade"):
            plan(["-d", "D902", "-c", "3d_cascade", "-p", "nnUNetPlans3D"])
        plan(["-d", "D902", "-c", "3d_fullres", "-p", "nnUNetPlans3D", "-o", target.stem])
    finally:
        path.unlink()
    said = capsys.readouterr().out
    assert "largest noise level 18.1 on patches of 1 x 8 x 64 x 64" in said and "0.100 SD per voxel" in said


def test_foreign_plans_are_not_overwritten(in_process: Workspace, target: Path) -> None:
    target.write_text(json.dumps(in_process.plans()))
    with pytest.raises(UserError, match="not written by nnunet-ima-plan"):
        plan(["-d", "D902"])
    assert json.loads(target.read_text()) == in_process.plans()
    target.unlink()


def test_damaged_plans_are_named(in_process: Workspace, target: Path) -> None:
    broken = in_process.preprocessed / "nnUNetPlansBroken.json"
    broken.write_text("{")
    try:
        with pytest.raises(UserError, match="not valid JSON"):
            plan(["-d", "D902", "-p", "nnUNetPlansBroken"])
    finally:
        broken.unlink()


@pytest.mark.parametrize("variable", ["nnUNet_preprocessed"])
def test_missing_variables_are_named(variable: str, in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(UserError, match=variable):
        plan(["-d", "Dataset902_PhantomHeart"])
