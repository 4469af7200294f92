"""One rank of a training on several devices: nnU-Net's own trainer code under gloo, for nccl needs GPUs."""

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module  # noqa: N813 (a module)
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector

from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.segmentation.trainers import trainer_named
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, QUICK, attack_from_the_first_step, build, narrowest, seed_everything

WORLD, EPOCHS, STEPS = 2, 2, 2
WITH_BATCH_NORM = "IMA with batch norm"
WITH_WEIGHT_NOISE = "IMA with weight noise"
IN_3D = "IMA in 3D"
BLOCK = {"noise_max": 60.0, "epochs": EPOCHS, "iterations": STEPS, "val_iterations": 1, "methods": QUICK, "ema": 0.5}


def train_all(rank: int, workspace: Workspace, folder: Path) -> None:
    """Writes `rank<N>.pth`: by label what `train` saw, or the error that ended it."""
    stock_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    # nnU-Net's __init__ insists on cuda:rank where the process group exists already.
    network = narrowest(workspace)
    trainers = {label: _built(rank, workspace, label, network) for label in LABELS}
    trainers[WITH_BATCH_NORM] = _built(rank, workspace, "IMA", with_batch_norm(network))
    trainers[WITH_WEIGHT_NOISE] = _built(rank, workspace, "IMA", network, awp=0.01)
    trainers[IN_3D] = _built(rank, workspace, "IMA", None)
    # A rank that waits for one that does not come shall fail, not hang.
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {}
    for label, trainer in trainers.items():
        try:
            found[label] = train(rank, trainer)
        except (RuntimeError, ValueError, SystemExit) as error:
            found[label] = {"error": str(error)}
    torch.save(found, folder / f"rank{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


def with_batch_norm(architecture: dict[str, Any]) -> dict[str, Any]:
    settings = architecture["arch_kwargs"] | {"norm_op": "torch.nn.modules.batchnorm.BatchNorm2d"}
    return architecture | {"arch_kwargs": settings}


def _built(rank: int, workspace: Workspace, label: str, architecture: dict[str, Any] | None, **settings: Any) -> Any:
    """A trainer of this network, or of the 3D configuration with its own, told what nnU-Net's __init__ would find out
    under torchrun."""
    kind = trainer_named(f"nnUNetTrainer{label}")
    assert kind is not None
    plans: dict[str, Any] = {"configuration": "3d_fullres"} if architecture is None else {"architecture": architecture}
    trainer = build(workspace, kind, BLOCK | settings, initialize=False, **plans)
    trainer.is_ddp, trainer.local_rank = True, rank
    return trainer


def train(rank: int, trainer: Any) -> dict[str, Any]:
    """What this rank noted in each epoch; weights and margins after it.

    Rank 0 attacks from its first step, on the others no slice is ever correct: they are never in step.
    """
    seed_everything(rank)
    trainer.initialize()
    trainer.on_train_start()
    batches = [next(trainer.dataloader_train) for _ in range(STEPS)]
    if rank == 0:
        attack_from_the_first_step(trainer, batches[0])
    else:
        trainer.ima_objective.threshold = 1.0
    adaptive = isinstance(trainer.ima, Adaptive)
    noted, margins, weights = [], [], []
    for _ in range(EPOCHS):
        trainer.on_train_epoch_start()
        outputs = [trainer.train_step(copy.deepcopy(batch)) for batch in batches]
        if adaptive:
            noted.append((dict(trainer.ima.outcomes.crossed), dict(trainer.ima.outcomes.held)))
        trainer.on_train_epoch_end(outputs)
        weights.append(parameters_to_vector(trainer.network.parameters()).detach())
        if adaptive:
            margins.append(trainer.ima.store.margins.clone())
    return {
        "ids": trainer.ima.store.ids if adaptive else [],
        "step": getattr(trainer.ima, "step", None),
        "margins": margins,
        "noted": noted,
        "rows": trainer.ima_history.rows,
        "batch_size": trainer.batch_size,
        "weights": weights,
    }
