"""Checkpoints are looked at before they are loaded."""

import os
from pathlib import Path

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import batches, started

SHORT = {"noise_max": 5.0, "epochs": 1, "iterations": 1, "val_iterations": 1, "steps": 2}


class Harmful:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_of_nnunet_passes(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(batch) for batch in batches(trainer, 1)])
    trainer.save_checkpoint(str(tmp_path / "checkpoint_best.pth"))
    check_checkpoint(tmp_path / "checkpoint_best.pth")


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    file, target = tmp_path / "gift.pth", tmp_path / "harm"
    torch.save({"network_weights": {}, "extra": Harmful(target)}, file)
    with pytest.raises(UserError, match=r"gift\.pth was not loaded: it names posix\.mkdir|nt\.mkdir"):
        check_checkpoint(file)
    assert not target.exists()
    # It is not this test that is harmless: loaded as nnU-Net loads, the file acts.
    torch.load(file, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "damaged"), (b"no checkpoint", "damaged"), (None, "does not exist")]
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "a.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        check_checkpoint(file)


def test_the_evaluation_refuses_it_too(workspace: Workspace, tmp_path: Path) -> None:
    folder = workspace.results / "nnUNetTrainer__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text((workspace.preprocessed / "nnUNetPlans.json").read_text())
    (folder / "dataset.json").write_text((workspace.preprocessed / "dataset.json").read_text())
    torch.save({"network_weights": {}, "extra": Harmful(tmp_path / "harm")}, folder / "fold_0" / "gift.pth")
    done = workspace.run(
        "nnunet-ima-eval", "--noise", "1", "-d", "902", "-chk", "gift.pth", "-device", "cpu", check=False
    )
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].endswith("ask where it comes from.")
    assert "Traceback" not in done.stderr and not (tmp_path / "harm").exists()
