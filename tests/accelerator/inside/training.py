"""nnU-Net's own training step by every method, in float16 with a gradient scaler."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module  # noqa: N813 (a module)

from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.segmentation.discovery import nnunet_ima_trainers
from tests.accelerator.backend import NAME
from tests.accelerator.device import Accelerator
from tests.accelerator.waits import AT_MOST
from tests.conftest import Workspace
from tests.segmentation.trainers import (
    LABELS,
    QUICK,
    attack_from_the_first_step,
    batches,
    build,
    copied,
    narrowest,
    started,
)

BLOCK = {"noise_max": 20.0, "epochs": 4, "iterations": 2, "val_iterations": 1, "methods": QUICK}


@contextmanager
def as_on_cuda(trainer: Any, scale: float = 2.0**10) -> Iterator[None]:
    """nnU-Net's loop as it is on CUDA: autocast to float16 and a gradient scaler."""
    trainer.grad_scaler = torch.amp.GradScaler(NAME, init_scale=scale)
    with mock.patch.object(stock_module, "dummy_context", lambda: torch.autocast(NAME, torch.float16)):
        yield


def ready(workspace: Workspace, label: str) -> tuple[Any, dict[str, Any]]:
    """A trainer on the device that attacks from its first step, and a batch."""
    kind = getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}")
    trainer = started(workspace, kind, BLOCK, device=NAME, architecture=narrowest(workspace))
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    trainer.network.train()
    trainer.on_train_epoch_start()
    return trainer, batch


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in trainer.network.state_dict().items()}


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[] if label == "IMA" else pytest.mark.slow) for label in LABELS]
)
def test_a_training_step_an_epoch_and_its_checkpoint(
    label: str, in_process: Workspace, device: Accelerator, tmp_path: Path
) -> None:
    trainer, batch = ready(in_process, label)
    before = weights(trainer)
    with as_on_cuda(trainer):
        outputs = [trainer.train_step(copied(batch)) for _ in range(2)]
        trainer.on_train_epoch_end(outputs)
        file = str(tmp_path / "checkpoint_latest.pth")
        trainer.save_checkpoint(file)
    after = weights(trainer)
    assert all(torch.isfinite(torch.as_tensor(output["loss"])).all() for output in outputs)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = build(in_process, type(trainer), BLOCK, device=NAME, architecture=narrowest(in_process))
    with as_on_cuda(again):
        again.load_checkpoint(file)
        again.on_train_start()
        again.on_train_epoch_start()
        again.network.train()
        again.train_step(copied(batch))
    if isinstance(trainer.ima, Adaptive):
        assert torch.equal(again.ima.store.margins, trainer.ima.store.margins)
        assert torch.isfinite(again.ima.store.margins).all() and (trainer.ima.store.visits > 0).any()


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[] if label == "IMA" else pytest.mark.slow) for label in LABELS]
)
def test_a_step_whose_gradients_overflow_changes_nothing(
    label: str, in_process: Workspace, device: Accelerator
) -> None:
    trainer, batch = ready(in_process, label)
    before = weights(trainer)
    margins = trainer.ima.store.margins.clone() if isinstance(trainer.ima, Adaptive) else None
    with as_on_cuda(trainer, 2.0**60):
        trainer.on_train_epoch_end([trainer.train_step(copied(batch))])
    assert all(torch.equal(before[name], value) for name, value in weights(trainer).items())
    if margins is not None:
        assert torch.equal(trainer.ima.store.margins, margins) and not trainer.ima.store.visits.any()


def test_the_host_waits_rarely_in_a_step_of_ima(in_process: Workspace, device: Accelerator) -> None:
    trainer, batch = ready(in_process, "IMA")
    with as_on_cuda(trainer):
        trainer.train_step(copied(batch))
        device.reset()
        trainer.train_step(copied(batch))
    assert trainer.ima.tally.crossed > 0
    assert device.waits.total() <= AT_MOST["ima trainer"], device.waits
