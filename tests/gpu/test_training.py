"""Training steps on CUDA: nnU-Net's own loop with its mixed precision, GradScaler and compiler."""

import copy
import math
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import torch
from gpu_measure import LIMITS, host_waits, prepared, training_steps
from synthetic import Pool, Shape, attacked, build, calibrate, nnunet_in, on_device, warm_up, write_dataset
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from nnunet_ima.attacks import bpgd
from nnunet_ima.attacks.buckets import eighths
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.registry import methods
from nnunet_ima.methods.stopwatch import Stopwatch
from nnunet_ima.segmentation.trainers import trainer_named
from tests.gpu.conftest import SHAPE
from tests.gpu.device import DEVICE, GPU, ON_CUDA, cuda_only
from tests.models import recorded_sizes

pytestmark = GPU

SETTINGS = {
    "ima": {"margin_step": 1.0},
    "ddn": {"steps": 4},
    "iaat": {"warm_up": 0},
    "mail": {"burn_in": 0},
    "gairat": {"burn_in": 0},
}
LABELS = [method.label for word, method in methods().items() if word != "ce"]


def _batch(trainer: Any, pool: Pool, rows: list[int] | None = None) -> dict[str, Any]:
    return pool.batch(rows or list(range(SHAPE.batch)), trainer._get_deep_supervision_scales())


@pytest.mark.parametrize("label", LABELS)
def test_each_method_learns_under_mixed_precision(label: str, pool: Pool) -> None:
    trainer = build(SHAPE, DEVICE, trainer_named(f"nnUNetTrainer{label}"), noise_max=5.0, methods=SETTINGS)
    assert (trainer.grad_scaler is not None) == ON_CUDA
    with torch.no_grad():
        output = trainer.network(on_device(trainer, pool, list(range(SHAPE.batch)))[0])[0]
    dice = trainer.ima_objective.slice_dice(output, pool.y[: SHAPE.batch].to(DEVICE)).nan_to_num(0.0)
    trainer.ima_objective.threshold = 0.95 * dice.median().item()
    before = copy.deepcopy(trainer.network.state_dict())
    # The first steps may be left out: the scaler looks for a scale that does not overflow.
    losses = [trainer.train_step(_batch(trainer, pool))["loss"] for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    after = trainer.network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(before[name], value) for name, value in after.items())
    trainer.on_train_epoch_end([{"loss": loss} for loss in losses])
    assert trainer.ima_history.rows[-1]["correct"] > 0
    if isinstance(trainer.ima, Adaptive):
        assert trainer.ima.store.margins.device.type == "cpu" and trainer.ima.store.margins.isfinite().all()


@cuda_only
def test_a_step_that_overflows_moves_nothing_and_is_no_visit(pool: Pool) -> None:
    trainer = prepared(SHAPE, pool, DEVICE, "AMP").trainer
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.01
    trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
    weights, store = copy.deepcopy(trainer.network.state_dict()), copy.deepcopy(trainer.ima.store)
    outputs = [trainer.train_step(_batch(trainer, pool))]
    assert trainer.grad_scaler.get_scale() < 2.0**60
    for name, weight in trainer.network.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    trainer.on_train_epoch_end(outputs)
    assert trainer.ima.store.margins.isfinite().all()
    assert torch.equal(trainer.ima.store.visits, store.visits)
    assert torch.equal(trainer.ima.store.margins, store.margins)
    # A step that counts, on the same slices.
    trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=2.0**4)
    trainer.on_train_epoch_end([trainer.train_step(_batch(trainer, pool))])
    assert trainer.ima.store.visits.sum() > store.visits.sum()


@cuda_only
@pytest.mark.parametrize(("wanted", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_attack_runs_in_the_precision_asked_for(wanted: str, dtype: torch.dtype, pool: Pool) -> None:
    trainer = build(SHAPE, DEVICE, attack_precision=wanted, methods=SETTINGS)
    warm_up(trainer, pool, SHAPE.batch)
    calibrate(trainer, pool, SHAPE.batch)
    seen: list[tuple[bool, torch.dtype]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        alone = not isinstance(output, list | tuple)
        seen.append((alone, (output if alone else output[0]).dtype))

    trainer.network.register_forward_hook(note)
    trainer.train_step(_batch(trainer, pool))
    # One output: the attack's passes. Several: nnU-Net's training passes.
    assert {kind for alone, kind in seen if alone} == {dtype}
    assert {kind for alone, kind in seen if not alone} == {torch.float16}


@cuda_only
def test_the_seconds_of_an_attack_are_those_the_gpu_works() -> None:
    """The host is done long before: it only asks for the products."""
    matrix = torch.rand(4096, 4096, device=DEVICE)
    matrix = (matrix @ matrix).clamp(0, 1)
    watch = Stopwatch()
    torch.cuda.synchronize()
    start = perf_counter()
    with watch.running(DEVICE):
        for _ in range(50):
            matrix = (matrix @ matrix).clamp(0, 1)
    torch.cuda.synchronize()
    taken = perf_counter() - start
    assert watch.read() == pytest.approx(taken, rel=0.5)
    assert watch.read() == 0


def _sizes_of_steps(trainer: Any, pool: Pool) -> list[int]:
    """The batch sizes that the network meets in three steps of training."""
    sizes = recorded_sizes(trainer.network)
    for first in range(3):
        trainer.train_step(_batch(trainer, pool, list(range(first, first + SHAPE.batch))))
    return sizes


@cuda_only
def test_a_step_meets_few_batch_sizes(pool: Pool) -> None:
    """Each further one costs seconds: cuDNN tries its algorithms anew."""
    trainer = build(SHAPE, DEVICE, methods=SETTINGS)
    warm_up(trainer, pool, SHAPE.batch)
    calibrate(trainer, pool, SHAPE.batch)
    sizes = _sizes_of_steps(trainer, pool)
    assert trainer.ima.tally.crossed > 0 and set(sizes) <= set(eighths(SHAPE.batch))


def test_a_compiled_training_needs_few_graphs(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as nnU-Net compiles. (On the CPU it does not: there the network is traced only.)"""
    monkeypatch.setenv("nnUNet_compile", "t")
    trainer = build(SHAPE, DEVICE, methods=SETTINGS)
    compiled: Any = trainer.network if ON_CUDA else torch.compile(trainer.network, backend="aot_eager")
    # What prepares the test is not worth compiling.
    trainer.network = compiled._orig_mod
    warm_up(trainer, pool, SHAPE.batch)
    calibrate(trainer, pool, SHAPE.batch)
    trainer.network = compiled
    assert trainer._is_compiled
    torch.compiler.reset()
    counters.clear()
    sizes = _sizes_of_steps(trainer, pool)
    assert trainer.ima.tally.crossed > 0 and sum(sizes) > 3 * SHAPE.batch
    # Clean pass, attack with and without gradient, twins; each at one size, then at any.
    assert 0 < counters["stats"]["unique_graphs"] <= 8


def test_a_compiled_attack_computes_no_weight_gradients(pool: Pool) -> None:
    """Looked up in the backward graphs that the compiler is given."""
    masks: list[list[bool]] = []

    def backward(graph: Any, inputs: Any) -> Any:
        convolutions = [node for node in graph.graph.nodes if "convolution_backward" in str(node.target)]
        masks.extend(list(node.args[-1]) for node in convolutions)
        return graph

    found = prepared(SHAPE, pool, DEVICE, "AMP")
    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=backward)
    found.trainer.network = torch.compile(found.trainer.network, backend=backend)
    x, y = on_device(found.trainer, pool, list(range(SHAPE.batch)))
    with attacked(found.trainer, SHAPE.batch) as network:
        bpgd(network, x, y, 1.0, objective=found.trainer.ima_objective, steps=3)
    # Of each convolution the gradient of input, weight and bias.
    assert masks and all(mask == [True, False, False] for mask in masks)


def test_an_ima_step_needs_at_most_two_and_a_half_times_the_memory(tmp_path: Path) -> None:
    """Its clean graph stays while the attack, then the twins, build theirs: twice, and some copies of the images."""
    shape = Shape((64, 64), 64) if ON_CUDA else SHAPE
    with nnunet_in(tmp_path):
        found = training_steps(shape, write_dataset(shape), DEVICE, "AMP", 1, lambda: math.inf)
    assert found["correct"] > 0.5 and found["crossed"] > 0.2
    assert 0.9 < found["IMA_over_plain"]["peak_gib"] <= 2.5


def test_the_host_waits_no_more_often_than_it_may(pool: Pool) -> None:
    found = host_waits(SHAPE, pool, DEVICE)
    assert set(found) == set(LIMITS)
    for name, row in found.items():
        assert row["waits"] <= LIMITS[name], (name, row)
        assert row["waits"] > 0 or not ON_CUDA, "nothing was counted"
