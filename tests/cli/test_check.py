"""`nnunet-ima-setup --check`, link by link, on the real chain."""

import pytest

from nnunet_ima.cli import check
from nnunet_ima.nnunet.trainer_search import DISCOVERY, VARIABLE
from tests.conftest import Workspace


def test_a_whole_chain_is_ready(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-setup", "--check", "-d", "D902", nnUNet_extTrainer=str(DISCOVERY))
    assert "FAIL" not in done.stdout and done.stdout.endswith("Ready.\n")
    assert "found by nnU-Net in nnunet_ima.segmentation.trainer" in done.stdout
    assert "OK    nnUNetPlans 2d: settings: default; 6 cases preprocessed" in done.stdout


def test_each_loose_link_is_named_with_its_remedy(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-setup", "--check", check=False, nnUNet_extTrainer="", nnUNet_raw="")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    failed = {lines[row]: lines[row + 1] for row in range(len(lines) - 1) if lines[row].startswith("FAIL")}
    assert [line.split(":")[0] for line in failed] == [
        "FAIL  nnUNet_raw",
        "FAIL  nnUNet_extTrainer",
        "FAIL  nnUNetTrainerIMA",
    ]
    assert all(remedy.startswith("      -> ") for remedy in failed.values())


def test_a_folder_that_is_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", "/nowhere/at/all")
    found = {link.name: link for link in check.folders()}
    assert found["nnUNet_results"].state == "FAIL" and "mkdir -p /nowhere/at/all" in found["nnUNet_results"].remedy


def test_folders_that_are_gone_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"/nowhere:{DISCOVERY}")
    link = check.variable()
    assert link.state == "WARN" and "/nowhere" in link.seen


def test_unfinished_preprocessing_fails_with_the_command_to_run(in_process: Workspace) -> None:
    plans = in_process.plans()
    plans["configurations"]["2d"]["data_identifier"] = "nnUNetPlans_elsewhere"
    found = list(check.preprocessed("nnUNetPlans", in_process.preprocessed, plans, ["2d"], ""))
    assert [link.state for link in found] == ["FAIL"]
    assert found[0].remedy == "nnUNetv2_preprocess -d Dataset902_PhantomHeart -plans_name nnUNetPlans -c 2d"


@pytest.mark.parametrize(("wanted", "seen"), [("D7", "there is no data set"), ("x", "-d must be like 4")])
def test_a_data_set_that_is_not_there_fails(in_process: Workspace, wanted: str, seen: str) -> None:
    found = list(check.data_set(wanted))
    assert [link.state for link in found] == ["FAIL"] and seen in found[0].seen


def test_a_bad_block_fails(in_process: Workspace) -> None:
    in_process.write_plans("nnUNetPlansBadCheck", {"beta": 7})
    found = list(check.data_set("902"))
    (in_process.preprocessed / "nnUNetPlansBadCheck.json").unlink()
    assert found[-1].state == "FAIL" and "beta of IMA must be a number from 0 to 1" in found[-1].seen
