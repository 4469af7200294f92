"""The methods inside nnU-Net's training step: slices are their samples."""

import math
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_ima.methods import gairat, mail
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.divergence import average, divergence, runner_up, true_probability
from nnunet_ima.segmentation.discovery import nnunet_ima_trainers
from nnunet_ima.segmentation.loader import sample_ids
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from nnunet_ima.segmentation.trainers import trainer_named
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, attack_from_the_first_step, batches, build, copied, started

BLOCK = {
    "noise_max": 20.0,
    "epochs": 4,
    "iterations": 2,
    "val_iterations": 1,
    "attack_precision": "float32",
    "methods": {"ddn": {"steps": 4}, "iaat": {"warm_up": 0}, "mail": {"burn_in": 0}, "gairat": {"burn_in": 0}},
}


@pytest.mark.parametrize("label", LABELS)
def test_each_method_takes_a_step_and_leaves_the_network_as_it_was(label: str, in_process: Workspace) -> None:
    trainer = started(in_process, getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}"), BLOCK)
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    trainer.network.train()
    trainer.on_train_epoch_start()
    before = copied(trainer.network.state_dict())
    result = trainer.train_step(copied(batch))
    assert math.isfinite(result["loss"])
    assert any(not torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())
    assert trainer.network.decoder.deep_supervision
    assert all(module.training for module in trainer.network.modules())
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())
    assert trainer.ima.tally.samples >= 4
    trainer.on_train_epoch_end([result])
    assert trainer.ima_history.rows[-1]["attack_seconds"] > 0
    files = {file.name for file in trainer_folder(trainer).iterdir()}
    assert ("margins.csv" if isinstance(trainer.ima, Adaptive) else "attacks.csv") in files


def trainer_folder(trainer: Any) -> Any:
    from pathlib import Path

    return Path(trainer.output_folder)


def test_the_loss_of_one_slice_is_nnunets_loss_of_a_batch_of_one(in_process: Workspace) -> None:
    from nnunet_ima.segmentation.batch import SegmentationPass

    trainer = started(in_process, nnUNetTrainer, None)
    batch = batches(trainer, 1)[0]
    with torch.no_grad():
        outputs = trainer.network(batch["data"])
        found = SegmentationPass(outputs, batch["target"], trainer.loss, trainer.loss)
        alone = [
            trainer.loss([part[row : row + 1] for part in outputs], [part[row : row + 1] for part in batch["target"]])
            for row in range(4)
        ]
        torch.testing.assert_close(found.losses(), torch.stack(alone))
        torch.testing.assert_close(found.loss(), trainer.loss(outputs, batch["target"]))


def test_trainers_are_found_by_name() -> None:
    adv = trainer_named("nnUNetTrainerAdv5")
    assert adv is trainer_named("nnUNetTrainerAdv5") and adv is not None
    assert (adv.__name__, adv.level, adv.method.word) == ("nnUNetTrainerAdv5", 5.0, "adv")  # type: ignore[attr-defined]
    assert trainer_named("nnUNetTrainerAdv2p5").level == 2.5  # type: ignore[union-attr]
    assert trainer_named("nnUNetTrainerIMA") is nnUNetTrainerIMA
    for name in ("nnUNetTrainerSMD5", "nnUNetTrainer", "nnUNetTrainerPlain5", "nnUNetTrainerDA5", "nnUNetTraineradv"):
        assert trainer_named(name) is None, name
        assert not hasattr(nnunet_ima_trainers, name)


def test_a_level_that_is_missing_is_asked_for_before_any_folder_is_made(in_process: Workspace) -> None:
    with pytest.raises(SystemExit, match=r"Adv needs a noise level: give --noise-max, or .* a trainer like nnUNetTra"):
        build(in_process, trainer_named("nnUNetTrainerAdv"), {"epochs": 1})  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="DDN has no norm linf: use l2"):
        build(in_process, trainer_named("nnUNetTrainerDDN5"), {"norm": "linf"})  # type: ignore[arg-type]


def test_slices_without_foreground_weigh_one_beside_the_papers_example() -> None:
    margins = torch.tensor([1.0, -0.5, 0.0, 0.5, 1.0])
    breakable = torch.tensor([False, True, True, True, True])
    published = [1.805972, 1.235176, 0.664380, 0.294473]
    assert mail.weights(margins, 2.0, 0.0, breakable).tolist() == pytest.approx([1.0, *published], abs=1e-6)
    held = torch.tensor([10, 0, 5, 10])
    raw = [(1 + math.tanh(-1 + 5 * (1 - 2 * kappa / 10))) / 2 for kappa in (0, 5, 10)]
    expected = [1.0, *(3 * value / sum(raw) for value in raw)]
    assert gairat.weights(held, 10, -1.0, breakable[:4]).tolist() == pytest.approx(expected)
    assert gairat.weights(held, 10, -1.0, torch.zeros(4).bool()).tolist() == [1.0] * 4


@pytest.mark.parametrize("label", ["MAIL", "MAILTRADES", "MAILMART", "GAIRAT"])
def test_false_positives_count_after_the_burn_in_as_before(label: str, in_process: Workspace) -> None:
    """One slice with foreground and three without: the one weighs 1 by itself, and so does each of the others."""
    block = BLOCK | {"methods": {label.lower(): {"burn_in": 0.5, "steps": 3}}}
    trainer = started(in_process, getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}"), block, batch_dice=False)
    batch = batches(trainer, 1)[0]
    for part in batch["target"]:
        part[1:] = 0
    ids = sample_ids(batch)
    trainer.ima.breakable = frozenset(ids[:1]) - frozenset(ids[1:])
    assert trainer.ima.breakable
    weights = copied(trainer.network.state_dict())
    losses = []
    for progress in (0.0, 0.9):
        trainer.network.load_state_dict(weights)
        trainer.ima.start_epoch(progress)
        torch.manual_seed(0)
        losses.append(float(trainer.train_step(copied(batch))["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# --- probabilities of pixels ------------------------------------------------------------------------------------------


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """(1, K, 1, W): the distribution of each pixel."""
    return torch.tensor(probabilities).log().T.unsqueeze(0).unsqueeze(2)


def test_divergence_is_a_mean_over_the_pixels_that_count() -> None:
    objective = SegmentationObjective(2, ignore_label=3)
    p = logits_of([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
    q = logits_of([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
    y = torch.tensor([0, 1, 3]).view(1, 1, 1, 3)
    first = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert divergence(objective, p, q, y).item() == pytest.approx(first / 2, rel=1e-5)
    assert true_probability(objective, p, y)[0, 0, :2].tolist() == pytest.approx([0.5, 0.1])
    others = (-math.log(1 - 0.25) - math.log(1 - 0.8)) / 2
    assert runner_up(objective, p, y).item() == pytest.approx(others, rel=1e-4)
    assert divergence(objective, p, p, y).item() == pytest.approx(0.0, abs=1e-6)


def test_regions_are_predictions_of_their_own() -> None:
    objective = SegmentationObjective(2, regions=True)
    p, q = torch.tensor([0.9, 0.2]), torch.tensor([0.6, 0.2])
    y = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    found = divergence(objective, p.logit().view(1, 2, 1, 1), q.logit().view(1, 2, 1, 1), y)
    expected = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    assert found.item() == pytest.approx(expected / 2, rel=1e-4)
    assert true_probability(objective, p.logit().view(1, 2, 1, 1), y).flatten().tolist() == pytest.approx([0.9, 0.8])
    assert average(objective, torch.tensor([3.0, 5.0]).view(1, 2, 1, 1), y).tolist() == [4.0]


@pytest.mark.parametrize(("right", "expected"), [(1.0, 1.0), (0.6, 0.0), (0.3, -0.5), (0.0, -1.0)])
def test_the_lead_of_a_slice_follows_its_dice(right: float, expected: float) -> None:
    """10 pixels of foreground, found certainly in a share that gives this soft Dice."""
    objective = SegmentationObjective(1)
    y = torch.zeros(1, 1, 1, 40)
    y[..., :10] = 1
    # 2 TP / (2 TP + FP + FN) = right, with as many false pixels as are missed: TP = 10 * right.
    probability = torch.zeros(1, 40)
    probability[0, :10] = right
    probability[0, 10:20] = 1 - right
    p = probability.clamp(1e-7, 1 - 1e-7)
    logits = torch.stack([(1 - p).log(), p.log()], 1).view(1, 2, 1, 40)
    assert objective.lead(logits, y).item() == pytest.approx(expected, abs=1e-4)
