"""A trainer's average of the weights, noise on the weights, budget and attack losses: for every method."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import STRONG
from nnunet_ima.segmentation.objectives.in_turn import in_turn
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainers import trainer_named
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, QUICK, attack_from_the_first_step, batches, build, copied, started

BLOCK = {"noise_max": 5.0, "epochs": 3, "iterations": 2, "val_iterations": 1, "methods": QUICK}
QUICKLY = ("Plain", "IMA", "TRADES")
"""Methods of every kind of attack; the others are slow here, and quick in tests/methods."""
ALL = [pytest.param(label, marks=[] if label in QUICKLY else pytest.mark.slow) for label in ("Plain", *LABELS)]
ATTACKING = [one for one in ALL if one.values[0] != "Plain"]


def epoch(trainer: Any, some: list[dict[str, Any]]) -> None:
    """One epoch without its validation, on these batches."""
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(copied(batch)) for batch in some])


def weights(trainer: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.network.parameters()]


@pytest.mark.parametrize("label", ALL)
def test_the_average_is_saved_and_training_goes_on_from_the_live_weights(
    label: str, in_process: Workspace, tmp_path: Path
) -> None:
    trainer_class = trainer_named(f"nnUNetTrainer{label}")
    assert trainer_class is not None
    block = BLOCK | {"ema": 0.5, "awp": 0.02}
    trainer = started(in_process, trainer_class, block)
    some = batches(trainer, 4)
    if label != "Plain":
        attack_from_the_first_step(trainer, some[0])
    torch.manual_seed(1)
    epoch(trainer, some[:2])
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    saved = torch.load(file, weights_only=False)
    average = trainer.ima_average
    assert average.shown and average.steps == 2
    shown = list(trainer.network.state_dict().values())
    assert all(torch.equal(*pair) for pair in zip(saved["network_weights"].values(), shown, strict=True))
    assert any(not torch.equal(*pair) for pair in zip(weights(trainer), average.other, strict=True))

    again = build(in_process, trainer_class, block)
    again.load_checkpoint(file)
    again.on_train_start()
    if label != "Plain":
        again.ima_objective.threshold = trainer.ima_objective.threshold
    trainer.current_epoch += 1
    for one in (trainer, again):
        torch.manual_seed(2)
        epoch(one, some[2:])
    assert all(torch.equal(*pair) for pair in zip(weights(trainer), weights(again), strict=True))
    assert all(torch.equal(*pair) for pair in zip(average.other, again.ima_average.other, strict=True))


@pytest.mark.parametrize("label", ALL)
def test_weight_noise_moves_the_step_and_nothing_else(label: str, in_process: Workspace) -> None:
    """Without it a training is bit for bit what it was; with it the noise of the images is found once."""
    trainer_class = trainer_named(f"nnUNetTrainer{label}")
    assert trainer_class is not None
    ends: list[list[torch.Tensor]] = []
    costs: list[float] = []
    some: list[dict[str, Any]] = []
    for block in ({}, {"awp": 0.0, "ema": 0.0}, {"awp": 0.05}):
        trainer = started(in_process, trainer_class, BLOCK | block)
        some = some or batches(trainer, 1)
        if label != "Plain":
            attack_from_the_first_step(trainer, some[0])
        torch.manual_seed(1)
        epoch(trainer, some)
        ends.append(weights(trainer))
        costs.append(trainer.step_cost())
    assert all(torch.equal(*pair) for pair in zip(ends[0], ends[1], strict=True))
    assert any(not torch.equal(*pair) for pair in zip(ends[0], ends[2], strict=True))
    assert costs[0] == costs[1] and 3 <= costs[2] - costs[0] <= 7


@pytest.mark.parametrize("label", ALL)
def test_a_budget_sets_the_steps_of_each_epoch(label: str, in_process: Workspace, tmp_path: Path) -> None:
    trainer_class = trainer_named(f"nnUNetTrainer{label}")
    assert trainer_class is not None
    trainer = started(in_process, trainer_class, BLOCK | {"budget": 90})
    some = batches(trainer, 1)
    taken = []
    for _ in range(3):
        trainer.on_train_epoch_start()
        taken.append(trainer.num_iterations_per_epoch)
        outputs = [trainer.train_step(copied(some[0])) for _ in range(taken[-1])]
        trainer.on_train_epoch_end(outputs)
        trainer.current_epoch += 1
    spent, cost = trainer.ima_budget.spent, trainer.step_cost()
    assert abs(spent - 90) <= 2 * cost, "a step of the last epoch may cost more than one before"
    if label == "Plain":
        assert taken == [10, 10, 10]
    else:
        assert trainer.ima_history.rows[-1]["forwards"] == pytest.approx(spent)
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    again = build(in_process, trainer_class, BLOCK | {"budget": 90})
    again.load_checkpoint(file)
    again.on_train_start()
    assert again.ima_budget.spent == spent


@pytest.mark.parametrize("label", ALL)
def test_a_budget_below_one_step_an_epoch_is_refused_before_any_folder_is_made(
    label: str, in_process: Workspace
) -> None:
    trainer_class = trainer_named(f"nnUNetTrainer{label}")
    assert trainer_class is not None
    with pytest.raises(SystemExit, match=r"budget 5 is less than one training step of .* in each of 3 epochs: give"):
        build(in_process, trainer_class, BLOCK | {"budget": 5}, initialize=False)


@pytest.mark.parametrize("label", ATTACKING)
def test_attacks_climb_several_losses_in_turn(label: str, in_process: Workspace) -> None:
    trainer_class = trainer_named(f"nnUNetTrainer{label}")
    assert trainer_class is not None
    trainer = started(in_process, trainer_class, BLOCK | {"attack_loss": "in_turn"})
    some = batches(trainer, 1)
    attack_from_the_first_step(trainer, some[0])
    seen: list[Any] = []
    original = trainer.ima.step_loss

    def noting(batch: Any) -> Any:
        seen.append(batch.objective)
        return original(batch)

    trainer.ima.step_loss = noting
    trainer.on_train_epoch_start()
    for _ in range(6):
        trainer.train_step(copied(some[0]))
    kinds = [SegmentationObjective, *STRONG.values()]
    assert [type(one) for one in seen] == [*kinds, kinds[0]]
    assert {one.threshold for one in seen} == {trainer.ima_objective.threshold}
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())


def test_a_turn_agrees_about_what_is_correct() -> None:
    base = SegmentationObjective(2, regions=True, ignore_label=3, threshold=0.7, rule="max")
    for step in range(5):
        turned = in_turn(base, step)
        assert vars(turned) | {"_last": None} == vars(base) | {"_last": None}


def test_an_average_that_is_no_longer_wanted_leaves_the_live_weights(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerPlain, BLOCK | {"ema": 0.9})
    epoch(trainer, batches(trainer, 2))
    live = [tensor.clone() for tensor in trainer.ima_average.other]
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    again = build(in_process, nnUNetTrainerPlain, BLOCK)
    again.load_checkpoint(file)
    again.on_train_start()
    assert again.ima_average is None
    assert all(torch.equal(*pair) for pair in zip(weights(again), live, strict=True))
