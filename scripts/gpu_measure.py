"""What `scripts/gpu_check.py` measures: steps of nnU-Net and IMA, attacks beside those of torchattacks, host waits.

All of it runs on any device; on the CPU nothing makes the host wait, and memory is that of the process.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch
from compare_attacks import PixelCrossEntropy
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module  # noqa: N813 (a module)
from optimality import Counted
from step_time import synchronise, timed
from synthetic import Pool, Shape, attacked, build, calibrate, on_device, warm_up
from torch import Tensor
from waiting import counted_waits

from nnunet_ima.attacks import apgd, bpgd, pgd
from nnunet_ima.evaluation.noises import Settings, Target, attack
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain

Row = dict[str, Any]
STEPS = 20
LIMITS = {"bpgd": 24, "pgd": 31, "apgd": 33, "IMA step": 14}
"""Host waits, see `host_waits`."""


def precision_of(name: str) -> tuple[AbstractContextManager[Any], str]:
    """nnU-Net's mixed precision, or none: a context for its steps, and the attack precision that goes with it."""
    if name != "float32":
        return nullcontext(), "auto"
    return mock.patch.object(stock_module, "autocast", lambda *args, **kwargs: nullcontext()), "float32"


@dataclass
class Prepared:
    """IMA's trainer, warmed up and calibrated, and the rows of the pool that should cross, and that should hold."""

    trainer: Any
    crossing: list[int]
    holding: list[int]


def prepared(shape: Shape, pool: Pool, device: torch.device, precision: str, **ima: Any) -> Prepared:
    """ima: settings of the method."""
    context, attacks = precision_of(precision)
    variable = {"nnUNet_compile": "t" if "compile" in precision else "f"}
    with mock.patch.dict("os.environ", variable), context:
        trainer = build(shape, device, attack_precision=attacks, methods={"ima": {"margin_step": 1.0} | ima})
        if precision == "float32":
            trainer.grad_scaler = None
        warm_up(trainer, pool, shape.batch)
        crossing, holding = calibrate(trainer, pool, shape.batch)
    return Prepared(trainer, crossing.nonzero().flatten().tolist(), holding.nonzero().flatten().tolist())


def training_steps(
    shape: Shape, pool: Pool, device: torch.device, precision: str, rounds: int, seconds_left: Callable[[], float]
) -> Row:
    """Plain nnU-Net's step and IMA's on the same network and batches, in turns; medians of what follows two rounds.

    Fewer rounds where time runs out. first_s: of the first step of each, in which cuDNN and the compiler look around.
    """
    started = perf_counter()
    torch.compiler.reset()
    trainer = prepared(shape, pool, device, precision).trainer
    steps = {"plain": partial(nnUNetTrainerPlain.train_step, trainer), "IMA": trainer.train_step}
    sizes: list[int] = []
    trainer.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    rng = np.random.default_rng(1)
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    preparing = perf_counter() - started
    with precision_of(precision)[0]:
        for number in range(rounds + 2):
            begun = perf_counter()
            some = rng.permutation(len(pool.ids))[: shape.batch].tolist()
            batch = pool.batch(some, trainer._get_deep_supervision_scales())
            for name, step in steps.items():
                rows[name].append(timed(trainer, step, batch, sizes))
            if number >= 2 and seconds_left() < 2 * (perf_counter() - begun):
                break
    shares = trainer.ima.tally.shares()
    medians = {name: [median(column) for column in zip(*found[2:], strict=True)] for name, found in rows.items()}
    result: Row = {"rounds": len(rows["IMA"]) - 2, "preparing_s": preparing}
    for name, (seconds, forwards, peak) in medians.items():
        first = rows[name][0][0]
        result[name] = {"step_s": seconds, "first_s": first, "forwards_per_slice": forwards, "peak_gib": peak}
    ratios = {what: result["IMA"][what] / result["plain"][what] for what in ("step_s", "peak_gib")}
    return result | {"IMA_over_plain": ratios, "correct": shares["correct"], "crossed": shares["crossed"]}


def throughput(shape: Shape, pool: Pool, device: torch.device, rounds: int) -> Row:
    """Forwards of slices per second: PGD as nnunet-ima-eval runs it and, on the loss of torchattacks' and in float32,
    as torchattacks' PGDL2 does, in turns; medians of `rounds` after one that warms up."""
    trainer = prepared(shape, pool, device, "float32").trainer
    x, y = on_device(trainer, pool, list(range(shape.batch)))
    epsilon = trainer.ima.store.margins.median().item()
    low, width = float(x.min()) - epsilon, float(x.max() - x.min()) + 2 * epsilon
    rows: dict[str, list[float]] = {}
    with trainer._single_output():
        model = Counted(trainer.network, low, width).eval()
        attacks = _attacks(model, trainer, (x - low) / width, y, epsilon / width)
        for number in range(rounds + 1):
            for name, run in attacks.items():
                synchronise(device)
                model.forwards, started = 0, perf_counter()
                run()
                synchronise(device)
                if number:
                    rows.setdefault(name, []).append(model.forwards / (perf_counter() - started))
    result: Row = {"rates": {name: median(found) for name, found in rows.items()}}
    if "torchattacks" not in attacks:
        result["left_out"] = "torchattacks is not installed: pip install --no-deps torchattacks"
    return result


def _attacks(model: Counted, trainer: Any, u: Tensor, y: Tensor, epsilon: float) -> dict[str, Callable[[], Any]]:
    """By name, the attacks on slices `u` in [0, 1]."""
    labels, names = trainer.label_manager, [str(row) for row in range(len(u))]
    pixels = PixelCrossEntropy(trainer.ima_objective.num_foreground)
    evaluation = attack("pgd", Settings(steps=STEPS))
    attacks: dict[str, Callable[[], Any]] = {
        "nnunet-ima-eval": partial(evaluation, Target(model, labels), u, y, epsilon, names),
        "pgd, same loss": partial(pgd, model, u, y, epsilon, objective=pixels, steps=STEPS, random_start=False),
    }
    if find_spec("torchattacks") is not None:
        import torchattacks

        theirs = torchattacks.PGDL2(model, eps=epsilon, alpha=4 * epsilon / STEPS, steps=STEPS, random_start=False)
        attacks["torchattacks"] = partial(theirs, u, y[:, 0].long())
    return attacks


def host_waits(shape: Shape, pool: Pool, device: torch.device) -> Row:
    """Host waits under mixed precision, counted after a call of each that warms up, on four slices: of each attack of
    STEPS steps, as nnunet-ima-eval calls it, where some slices take all steps; of an IMA step, where all cross in the
    first of 4 attack steps (each step more may wait once more)."""
    found = prepared(shape, pool, device, "AMP", steps=4)
    trainer = found.trainer
    if len(found.crossing) < 4 or len(found.holding) < 2:
        raise RuntimeError(f"Only {len(found.crossing)} slices cross and {len(found.holding)} hold: too few to count.")
    batch = pool.batch(found.crossing[:4], trainer._get_deep_supervision_scales())
    calls = _attack_calls(trainer, pool, [*found.crossing[:2], *found.holding[:2]])
    result: Row = {}
    for name, call in (calls | {"IMA step": lambda: trainer.train_step(batch)}).items():
        call()
        with counted_waits(device) as places:
            call()
        result[name] = {"waits": places.total(), "limit": LIMITS[name], "places": dict(places.most_common())}
    result["IMA step"]["attack_steps_per_slice"] = trainer.ima.tally.shares()["attack_steps"]
    return result


def _attack_calls(trainer: Any, pool: Pool, rows: list[int]) -> dict[str, Callable[[], Any]]:
    x, y = on_device(trainer, pool, rows)
    known = trainer.ima.store.get([pool.ids[row] for row in rows]).float()
    margins, level = known.to(trainer.device), known.median().item()

    def run(method: Callable[..., Any], radius: Any, **arguments: Any) -> Any:
        with attacked(trainer, len(rows)) as network:
            return method(network, x, y, radius, objective=trainer.ima_objective, steps=STEPS, **arguments)

    def drawing(method: Callable[..., Any]) -> Any:
        return run(method, level, generator=[torch.Generator().manual_seed(row) for row in rows])

    return {"bpgd": partial(run, bpgd, margins), "pgd": partial(drawing, pgd), "apgd": partial(drawing, apgd)}
