"""A user's mistakes through the real commands: one sentence, the right exit code, no traceback, nothing written."""

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from tests.conftest import Workspace

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("5,abc", "must be numbers separated by commas, like 5,15,25, got '5,abc'"),
        ("", "must be numbers separated by commas"),
        ("5,,15", "must be numbers separated by commas"),
        ("-5", "must be finite and not negative"),
        ("inf", "must be finite and not negative"),
        ("15,5", "must ascend without repeats, got '15,5': write 5,15"),
        ("5,5,15", "must ascend without repeats, got '5,5,15': write 5,15"),
    ],
)
def test_bad_noise_levels_are_bad_usage(
    workspace: Workspace, noise: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunet_ima.cli.eval_flags import parser

    with pytest.raises(SystemExit) as exit_:
        parser().parse_args([f"--noise={noise}"])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attack", "pgd,deepfool"], "must be among pgd, segpgd"),
        (["--attack", ","], "got ','"),
        (["--corruptions", "snow"], "must be among white, gaussian"),
        (["--norm", "l1"], "invalid choice: 'l1'"),
        (["--band", "0.5"], "must be LOW,HIGH with 0 <= LOW < HIGH <= 1, like 0,0.25, got '0.5'"),
        (["--band", "0.5,0.25"], "got '0.5,0.25'"),
        (["--band", "nan,1"], "got 'nan,1'"),
    ],
)
def test_unknown_noises_are_bad_usage(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from nnunet_ima.cli.eval_flags import parser

    with pytest.raises(SystemExit) as exit_:
        parser().parse_args(["--noise", "5", *flags])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-i", "images"], "-i and -gt go together"),
        (["--attack", "vanish"], "name the class that should disappear"),
        (["--vanish", "heart"], "--attack vanish and --vanish CLASS go together"),
        (["--band", "0,0.5"], "--band 0,0.5 is for --attack frequency"),
        (["--attack", "pgd,frequency", "--norm", "linf"], "clipping pixels to that norm would leave the band"),
        (["--surface", "2"], "together with --volumes"),
        (["--transfer-from", "nnUNetTrainer"], "is for --attack transfer"),
        (["--calibrated"], "--calibrated is for --corruptions: add it"),
    ],
)
def test_flags_that_do_not_go_together(in_process: Workspace, flags: list[str], message: str) -> None:
    from nnunet_ima.cli.eval import evaluate

    with pytest.raises(UserError, match=message):
        evaluate(["--noise", "5", "-device", "cpu", *flags])


def test_the_command_itself_exits_with_2_for_bad_usage(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-eval", "--noise", "5,abc", check=False)
    assert done.returncode == 2 and "5,abc" in done.stderr and "Traceback" not in done.stderr


def test_nothing_trained_is_said_in_one_sentence(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-eval", "--noise", "5", "-tr", "nnUNetTrainerNobody", "-device", "cpu", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("nnunet-ima-eval: No trained 2D model")
    assert "-tr nnUNetTrainerNobody" in done.stderr


def test_missing_variables_are_said_in_one_sentence(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-eval", "--noise", "5", check=False, nnUNet_results="")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "nnUNet_results is not set" in done.stderr


@without_gpu
def test_training_on_an_absent_gpu_is_said_in_one_sentence(workspace: Workspace) -> None:
    done = workspace.run(
        "nnUNetv2_train", "D902", "2d", "0", "-tr", "nnUNetTrainerIMA", check=False, nnUNet_extTrainer=str(DISCOVERY)
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "train with -device cpu" in done.stderr


@without_gpu
def test_evaluating_on_an_absent_gpu_is_said_in_one_sentence(workspace: Workspace) -> None:
    done = workspace.run("nnunet-ima-eval", "--noise", "5", "-device", "cuda", check=False)
    assert done.returncode == 1 and "use -device cpu" in done.stderr and "Traceback" not in done.stderr


def test_a_bad_block_ends_training_in_one_sentence(workspace: Workspace) -> None:
    workspace.write_plans("nnUNetPlansBad", {"beta": 7})
    done = workspace.run(
        "nnUNetv2_train",
        "902",
        "2d",
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        "nnUNetPlansBad",
        "-device",
        "cpu",
        check=False,
        nnUNet_extTrainer=str(DISCOVERY),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "beta of IMA must be a number from 0 to 1, got 7" in done.stderr
