"""A compiled network under the attack. nnU-Net compiles on CUDA only; torch's own tracing is the same on the CPU."""

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import attack_from_the_first_step, batches, copied, started

SHORT = {"noise_max": 60.0, "margin_step": 10.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 20}


def _steps(workspace: Workspace, compiled: bool, some: list[dict[str, Any]]) -> Any:
    trainer = started(workspace, nnUNetTrainerIMA, SHORT | {"attack_precision": "float32"}, batch_size=8)
    attack_from_the_first_step(trainer, some[0])
    # The same network at every step: roundings that differ would otherwise grow with each.
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    if compiled:
        # Without code generation, which takes a minute; graphs, guards and backward are those of the full compiler.
        trainer.network = torch.compile(trainer.network, backend="aot_eager")
    for batch in some:
        trainer.train_step(copied(batch))
    return trainer


@pytest.mark.slow
def test_compiled_training_finds_the_same_boundaries_with_few_graphs(in_process: Workspace) -> None:
    some = batches(started(in_process, nnUNetTrainerIMA, SHORT, batch_size=8), 3)
    plain = _steps(in_process, False, some)
    torch._dynamo.reset()
    counters.clear()
    compiled = _steps(in_process, True, some)
    assert compiled.ima.tally.crossed == plain.ima.tally.crossed > 0
    assert compiled.ima.outcomes.held == plain.ima.outcomes.held
    for sample, margins in plain.ima.outcomes.crossed.items():
        assert compiled.ima.outcomes.crossed[sample] == pytest.approx(margins, rel=0.02)
    # Clean pass, attack with and without gradient, twins; each at one size, then at any.
    assert 0 < counters["stats"]["unique_graphs"] <= 8


def test_the_limit_of_graphs_is_raised_for_a_compiled_network(
    in_process: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(nnUNetTrainerIMA, "_do_i_compile", lambda self: True)
    started(in_process, nnUNetTrainerIMA, SHORT)
    assert torch._dynamo.config.recompile_limit == 32
