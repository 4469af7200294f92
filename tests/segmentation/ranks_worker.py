"""One rank of a training on several devices: nnU-Net's own trainer code under gloo, for nccl needs GPUs."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module  # noqa: N813 (a module)
from torch.nn.parallel import DistributedDataParallel

from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import attack_from_the_first_step, build, seed_everything

BLOCK = {"noise_max": 60.0, "margin_step": 30.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 4}
WORLD, EPOCHS, STEPS = 2, 2, 2


def train(rank: int, workspace: Workspace, folder: Path) -> None:
    """Writes `rank<N>.pth`: margins after each epoch, what this rank noted, and the weights at the end.

    Rank 0 attacks from its first step, on the others no slice is ever correct: they are never in step.
    """
    trainer = build(workspace, nnUNetTrainerIMA, BLOCK, initialize=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    # What nnU-Net's __init__ sets where the process group exists already; it would also insist on cuda:rank.
    trainer.is_ddp, trainer.local_rank = True, rank
    stock_module.DDP = lambda network, device_ids: DistributedDataParallel(network)
    seed_everything(rank)
    trainer.initialize()
    trainer.on_train_start()
    batches = [next(trainer.dataloader_train) for _ in range(STEPS)]
    if rank == 0:
        attack_from_the_first_step(trainer, batches[0])
    else:
        trainer.ima_objective.threshold = 1.0
    noted, margins = [], []
    for _ in range(EPOCHS):
        trainer.on_train_epoch_start()
        outputs = [trainer.train_step(copy.deepcopy(batch)) for batch in batches]
        noted.append(copy.deepcopy(trainer.ima.outcomes))
        trainer.on_train_epoch_end(outputs)
        margins.append(trainer.ima.store.margins.clone())
    result: dict[str, Any] = {
        "ids": trainer.ima.store.ids,
        "step": trainer.ima.step,
        "margins": margins,
        "noted": [(dict(outcomes.crossed), dict(outcomes.held)) for outcomes in noted],
        "rows": trainer.ima_history.rows,
        "batch_size": trainer.batch_size,
        "weights": trainer.network.module.state_dict(),
    }
    torch.save(result, folder / f"rank{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()
