"""Trainers built in the test's own process."""

import copy
import json
import random
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ima.methods.method import settings_of
from nnunet_ima.methods.registry import methods
from tests.conftest import Workspace, as_block

LABELS = [method.label for word, method in methods().items() if word != "ce"]
_QUICK = {"steps": 3, "bisections": 3, "burn_in": 0, "warm_up": 0}
QUICK = {
    word: {name: value for name, value in _QUICK.items() if name in settings_of(method)}
    for word, method in methods().items()
    if word != "ce"
}
"""Few attack steps, and weights and margins that count from the first epoch on, for every method that has these."""


def seed_everything(seed: int = 0) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build(
    workspace: Workspace,
    trainer: type[nnUNetTrainer],
    block: dict[str, Any] | None,
    initialize: bool = True,
    device: str = "cpu",
    configuration: str = "2d",
    **plans: Any,
) -> Any:
    """A trainer of fold 0, initialised, weights drawn with seed 0."""
    content = workspace.plans() | {"plans_name": "nnUNetPlansTest", "continue_training": False}
    if block is not None:
        content["ima"] = as_block(block)
    content["configurations"][configuration] |= {"batch_size": 4} | plans
    dataset_json = json.loads((workspace.preprocessed / "dataset.json").read_text())
    made = trainer(content, configuration, 0, dataset_json, torch.device(device))
    seed_everything()
    if initialize:
        made.initialize()
    return made


def narrowest(workspace: Workspace) -> dict[str, Any]:
    """The architecture of the plans with four features in each stage."""
    architecture: dict[str, Any] = workspace.plans()["configurations"]["2d"]["architecture"]
    settings = architecture["arch_kwargs"]
    settings["features_per_stage"] = [4] * settings["n_stages"]
    return architecture


def started(workspace: Workspace, trainer: type[nnUNetTrainer], block: dict[str, Any] | None, **plans: Any) -> Any:
    """A trainer ready for its first step."""
    made = build(workspace, trainer, block, **plans)
    made.on_train_start()
    if hasattr(made, "ima_lock"):
        # Tests start several trainers of one fold side by side; nothing but test_checks looks at the lock.
        made.ima_lock.release()
    return made


def batches(trainer: Any, count: int) -> list[dict[str, Any]]:
    return [next(trainer.dataloader_train) for _ in range(count)]


def copied(batch: dict[str, Any]) -> dict[str, Any]:
    """A step may change its batch: each trainer gets its own."""
    return copy.deepcopy(batch)


def attack_from_the_first_step(trainer: Any, batch: dict[str, Any]) -> None:
    """An untrained network is right nowhere. With the threshold just below the best slice's Dice, that slice counts
    as correct and soon crosses."""
    with torch.no_grad():
        output = trainer.network(batch["data"].to(trainer.device))[0]
    dice = trainer.ima_objective.slice_dice(output, batch["target"][0].to(trainer.device))
    trainer.ima_objective.threshold = 0.95 * dice.nan_to_num(0.0).max().item()
