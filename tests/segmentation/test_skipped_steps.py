"""Steps that nnU-Net's gradient scaler leaves out because gradients overflowed: no visit of a slice."""

from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module  # noqa: N813 (a module)
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.method import Tally
from nnunet_ima.segmentation.discovery import nnunet_ima_trainers
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, QUICK, attack_from_the_first_step, batches, copied, narrowest, started

# Attacks in float32, for a CPU takes its time over float16.
BLOCK = {"noise_max": 20.0, "epochs": 4, "iterations": 2, "attack_precision": "float32", "methods": QUICK}


@pytest.mark.parametrize("label", LABELS)
def test_a_step_whose_gradients_overflow_is_no_visit(
    label: str, in_process: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed precision on the CPU, where nnU-Net would train in float32: a real scaler, first with a hopeless scale."""
    monkeypatch.setattr(stock_module, "dummy_context", lambda: torch.autocast("cpu", torch.float16))
    kind = getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}")
    trainer = started(in_process, kind, BLOCK, architecture=narrowest(in_process))
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    trainer.on_train_epoch_start()
    before = _weights(trainer)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    overflown = trainer.train_step(copied(batch))
    assert torch.equal(_weights(trainer), before)
    tally = trainer.ima.tally
    assert tally == Tally(drawn=tally.drawn, forwards=tally.forwards) and tally.forwards > 0, "paid for, nothing else"
    trainer.on_train_epoch_end([overflown])
    if isinstance(trainer.ima, Adaptive):
        store = trainer.ima.store
        assert torch.isfinite(store.margins).all() and not store.visits.any()

    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    taken = trainer.train_step(copied(batch))
    assert not torch.equal(_weights(trainer), before)
    assert trainer.ima.tally.samples >= 4
    trainer.on_train_epoch_end([taken])
    if isinstance(trainer.ima, Adaptive):
        assert store.visits.any()


def _weights(trainer: Any) -> Tensor:
    return parameters_to_vector(trainer.network.parameters()).detach().clone()
