"""A training killed while it writes a checkpoint: whatever the moment, a whole checkpoint is there afterwards."""

import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import build, started

KILLS = 10
SHORT = {"noise_max": 5.0, "epochs": 2, "iterations": 1}


def _save_for_ever(trainer: Any, file: str) -> None:
    while True:
        trainer.save_checkpoint(file)
        trainer.current_epoch += 1


@pytest.mark.skipif(sys.platform != "linux", reason="forks the trainer")
@pytest.mark.slow
def test_ten_kills_during_writing_leave_a_whole_checkpoint(in_process: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint_latest.pth"
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    trainer.save_checkpoint(str(file))
    start = time.perf_counter()
    trainer.save_checkpoint(str(file))
    duration = time.perf_counter() - start
    interrupted = 0
    for kill in range(KILLS):
        writer = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(trainer, str(file)))
        writer.start()
        # Ten moments of a write and of the next one.
        time.sleep(2 * duration * (kill + 1) / KILLS)
        writer.kill()
        writer.join()
        interrupted += bool(list(tmp_path.glob(".checkpoint_latest*.tmp*")))
        checkpoint = torch.load(file, weights_only=False)
        assert len(checkpoint["ima"]["store"]["margins"]) == len(trainer.ima.store)
    assert interrupted > 0
    again = build(in_process, nnUNetTrainerIMA, SHORT)
    again.load_checkpoint(str(file))
    again.on_train_start()
    again.ima_lock.release()
