"""What a training refuses at the door: one sentence, and nothing written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.nnunet.trainer_search import DISCOVERY
from nnunet_ima.segmentation import refusals
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import build, started

SHORT = {"noise_max": 60.0, "margin_step": 30.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 4}


def _train(workspace: Workspace, plans: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return workspace.run(
        "nnUNetv2_train",
        "902",
        "2d",
        "0",
        "-tr",
        "nnUNetTrainerIMA",
        "-p",
        plans,
        "-device",
        "cpu",
        check=False,
        nnUNet_extTrainer=str(DISCOVERY),
        **environment,
    )


def _one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last: str = done.stderr.strip().splitlines()[-1]
    return last


def test_plans_copied_from_another_data_set_are_refused(workspace: Workspace) -> None:
    """nnU-Net would train on the data set that the plans name."""
    workspace.write_plans("nnUNetPlansCopied", {}, dataset_name="Dataset903_Other")
    last = _one_sentence(_train(workspace, "nnUNetPlansCopied"))
    assert "nnUNetPlansCopied are those of Dataset903_Other" in last
    assert not (workspace.results.parent / "Dataset903_Other").exists()


def test_a_results_folder_that_cannot_be_written_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    workspace.write_plans("nnUNetPlansShort", SHORT)
    last = _one_sentence(_train(workspace, "nnUNetPlansShort", nnUNet_results=str(tmp_path / "file" / "results")))
    assert last.startswith("nnUNet_results is ") and "name another folder" in last


def test_a_second_training_in_the_same_folder_is_refused(workspace: Workspace) -> None:
    """The lock is held by this process, as another training would hold it."""
    workspace.write_plans("nnUNetPlansLocked", SHORT)
    fold = workspace.results / "nnUNetTrainerIMA__nnUNetPlansLocked__2d" / "fold_0"
    held = refusals.lock_fold(fold)
    last = _one_sentence(_train(workspace, "nnUNetPlansLocked"))
    held.release()
    assert last.startswith(f"Another training is writing to {fold}")
    assert not (fold / "debug.json").exists()


def test_the_lock_of_a_killed_training_is_free(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from nnunet_ima.segmentation.refusals import lock_fold;"
        "lock = lock_fold(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode < 0
    refusals.lock_fold(tmp_path).release()


def test_what_a_killed_training_left_half_written_is_removed(tmp_path: Path) -> None:
    with replacing(tmp_path / "checkpoint_best.pth") as temporary:
        temporary.write_text("whole")
    code = (
        "import os, signal, sys; from nnunet_ima.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "checkpoint_best.pth")])
    assert len(list(tmp_path.iterdir())) == 2
    refusals.lock_fold(tmp_path).release()
    assert (tmp_path / "checkpoint_best.pth").read_text() == "whole"
    assert [file.name for file in tmp_path.iterdir() if file.name != ".training.lock"] == ["checkpoint_best.pth"]


def test_a_training_holds_the_lock_of_its_fold(in_process: Workspace) -> None:
    trainer = build(in_process, nnUNetTrainerPlain, SHORT)
    trainer.on_train_start()
    with pytest.raises(UserError, match="Another training"):
        refusals.lock_fold(Path(trainer.output_folder))
    trainer.ima_lock.release()


def test_cases_with_infinite_intensities_are_named(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(in_process, nnUNetTrainerIMA, SHORT)
    dataset = trainer.get_tr_and_val_datasets()[0]
    case = sorted(dataset.identifiers)[1]
    original = type(dataset).load_case

    def spoiled(self: Any, identifier: str) -> Any:
        data, *others = original(self, identifier)
        data = data[:]
        if identifier == case:
            data[0, 0, 0, 0] = float("nan")
        return data, *others

    monkeypatch.setattr(type(dataset), "load_case", spoiled)
    with pytest.raises(SystemExit, match=f"^Case {case} has intensities that are not finite"):
        started(in_process, nnUNetTrainerIMA, SHORT)


def test_a_training_set_without_foreground_is_refused(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = type(build(in_process, nnUNetTrainerIMA, SHORT).get_tr_and_val_datasets()[0])
    original = dataset.load_case

    def emptied(self: Any, identifier: str) -> Any:
        data, segmentation, *others = original(self, identifier)
        return data, 0 * segmentation[:], *others

    monkeypatch.setattr(dataset, "load_case", emptied)
    with pytest.raises(SystemExit, match=r"^None of the \d+ training slices has foreground"):
        started(in_process, nnUNetTrainerIMA, SHORT)


def test_a_checkpoint_cut_in_half_is_refused(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    content = file.read_bytes()
    for half in (content[: len(content) // 2], content[:10], b""):
        file.write_bytes(half)
        with pytest.raises(SystemExit, match=r"checkpoint_latest\.pth is damaged .*: remove it") as caught:
            build(in_process, nnUNetTrainerIMA, SHORT).load_checkpoint(str(file))
        assert str(caught.value).count("\n") == 0


def test_a_checkpoint_of_another_network_is_refused(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = {name: weight[:1] for name, weight in checkpoint["network_weights"].items()}
    torch.save(checkpoint, file)
    with pytest.raises(SystemExit, match="belongs to another network"):
        build(in_process, nnUNetTrainerIMA, SHORT).load_checkpoint(str(file))


def test_a_step_larger_than_the_memory_is_refused(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own message for memory it cannot have, raised where a huge batch would raise it."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    batch = next(trainer.dataloader_train)

    def too_much(*_: Any) -> Any:
        return torch.empty(1 << 60)

    monkeypatch.setattr(trainer, "_ima_loss", too_much)
    with pytest.raises(SystemExit, match=r"on 4 slices of 1 x \d+ x \d+ does not fit into the memory of cpu.*--batch"):
        trainer.train_step(batch)


def test_nothing_is_locked_by_a_lock_file_alone(tmp_path: Path) -> None:
    """What a training leaves behind does not keep the next one out."""
    lock = FileLock(tmp_path / ".training.lock")
    lock.acquire()
    lock.release()
    (tmp_path / ".training.lock").touch()
    refusals.lock_fold(tmp_path).release()
