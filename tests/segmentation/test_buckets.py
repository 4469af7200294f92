"""Few batch sizes, as the network meets them on CUDA, where each further one costs seconds."""

from typing import Any

import pytest
import torch

from nnunet_ima.attacks.buckets import eighths
from nnunet_ima.segmentation.discovery import nnunet_ima_trainers
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA, nnUNetTrainerMethod
from tests.conftest import Workspace
from tests.models import recorded_sizes
from tests.segmentation.ranks_worker import with_batch_norm
from tests.segmentation.trainers import LABELS, QUICK, attack_from_the_first_step, batches, copied, narrowest, started

BATCH = 9
BLOCK = {
    "noise_max": 20.0,
    "epochs": 4,
    "iterations": 2,
    "val_iterations": 1,
    "val_noise": 5.0,
    "attack_precision": "float32",
    "methods": QUICK,
}


def _ready(label: str, workspace: Workspace) -> Any:
    kind = getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}")
    return started(workspace, kind, BLOCK, batch_size=BATCH, architecture=narrowest(workspace))


def _loss(trainer: Any, batch: dict[str, Any]) -> float:
    """Of a training step."""
    attack_from_the_first_step(trainer, batch)
    trainer.on_train_epoch_start()
    torch.manual_seed(1)
    return float(trainer.train_step(copied(batch))["loss"])


@pytest.mark.parametrize("label", LABELS)
def test_each_method_meets_few_sizes_and_learns_the_same(
    label: str, in_process: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = _ready(label, in_process)
    batch = batches(usual, 1)[0]
    expected = _loss(usual, batch)
    monkeypatch.setattr(nnUNetTrainerMethod, "_bucket_sizes", lambda self, largest: eighths(largest))
    trainer = _ready(label, in_process)
    sizes = recorded_sizes(trainer.network)
    assert _loss(trainer, batch) == pytest.approx(expected, rel=1e-3)
    assert set(sizes) <= set(eighths(BATCH))


def test_the_attack_on_validation_batches_fills_them_up_too(
    in_process: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainerMethod, "_bucket_sizes", lambda self, largest: [largest + 3])
    trainer = _ready("IMA", in_process)
    batch = batches(trainer, 1)[0]
    sizes = recorded_sizes(trainer.network)
    trainer.validation_step(batch)
    assert sizes == [BATCH + 3] * (len(sizes) - 1) + [BATCH], "the last pass is nnU-Net's own"


def test_on_cuda_the_sizes_are_eighths_and_on_the_cpu_any(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, BLOCK, batch_size=BATCH)
    assert trainer._bucket_sizes(BATCH) is None
    trainer.device = torch.device("cuda")
    assert trainer._bucket_sizes(16) == [2, 4, 6, 8, 10, 12, 14, 16]


def test_batch_normalisation_counts_no_copies(in_process: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training it would count them in its statistics; in the attack, in evaluation mode, it does not."""
    monkeypatch.setattr(nnUNetTrainerMethod, "_bucket_sizes", lambda self, largest: eighths(largest))
    trainer = started(in_process, nnUNetTrainerIMA, BLOCK, architecture=with_batch_norm(narrowest(in_process)))
    sizes = recorded_sizes(trainer.network)
    one = torch.zeros(1, 1, 64, 64)
    trainer._for_training(16)(one)
    with trainer._open_attack(16) as network:
        network(one)
    assert sizes == [1, 2]
