"""The robust checkpoint and the ladder: the rules by hand, and a training of every method."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nnunet_ima.metrics.indices import total_voxel_dice_index
from nnunet_ima.segmentation.noisy_validation import NoisyValidation, rung_of, running
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainers import trainer_named
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, QUICK, build, copied, started

BLOCK = {
    "noise_max": 5.0,
    "epochs": 2,
    "iterations": 1,
    "val_iterations": 2,
    "methods": QUICK,
    "val_noise": 2.0,
    "ladder": 2,
}


def counts_of(dice: float) -> torch.Tensor:
    """Of one class, (1, 3)."""
    return torch.tensor([[round(1000 * dice), round(1000 * (1 - dice)), round(1000 * (1 - dice))]])


def test_the_most_robust_epoch_among_those_that_lose_little() -> None:
    kept = NoisyValidation(5.0, "l2", clean_loss=2.0)
    clean, noisy = [0.8, 0.8, 0.5, 0.8, 1.0, 1.0, 1.0, 1.0], [0.1, 0.3, 0.9, 0.9, 0.1, 0.0, 0.0, 0.0]
    saved = [epoch for epoch in range(8) if kept.end_epoch(epoch, clean[epoch], [counts_of(noisy[epoch])], None)]
    # In the running means, 80 80 77 77.3 79.6 81.6 83.5 85.1 and 10 12 19.8 26.8 25.1 22.6 20.4 18.3, 2 and 3 lose too
    # much; 5 and 7 are so good without noise that 4 and 5, kept until then, are below the limit.
    assert saved == [0, 1, 4, 5, 7] and kept.kept == 7
    again = NoisyValidation(5.0, "l2", clean_loss=2.0)
    again.load_state(kept.state())
    assert not again.end_epoch(8, 0.84, [counts_of(0.1)], 0.0)
    assert again.end_epoch(9, 0.85, [counts_of(0.2), counts_of(0.8)], 0.0), "summed over the processes"
    assert again.rows[-1]["noisy"] == pytest.approx(0.5)


def test_the_running_mean_is_nnunets(in_process: Workspace) -> None:
    kind = trainer_named("nnUNetTrainerIMA")
    assert kind is not None
    logger = started(in_process, kind, BLOCK).logger
    values = [0.3, 0.8, 0.7, 0.75]
    for epoch, value in enumerate(values):
        logger.log("mean_fg_dice", value, epoch)
    found = [logger.get_value("ema_fg_dice", step=epoch) for epoch in range(4)]
    assert running(values) == pytest.approx(found)


@pytest.mark.parametrize(
    ("epochs", "rungs", "expected"), [(10, 5, [1, 3, 5, 7, 9]), (4, 3, [1, 2, 3]), (2, 5, [0, 1]), (3, 0, [])]
)
def test_rungs_are_spread_evenly(epochs: int, rungs: int, expected: list[int]) -> None:
    found = {epoch: rung_of(epoch, epochs, rungs) for epoch in range(epochs)}
    assert [epoch for epoch, rung in found.items() if rung] == expected
    assert not rungs or found[epochs - 1] == rungs


def an_epoch(trainer: Any) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
    """What nnU-Net found on the validation batches, and the counts under noise, if there are any."""
    counts = None
    some = [next(trainer.dataloader_val) for _ in range(2)]
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        outputs = [trainer.validation_step(copied(batch)) for batch in some]
        noisy = getattr(trainer, "ima_validation", None)
        if noisy is not None:
            counts = noisy.counts.clone()
        trainer.on_validation_epoch_end(outputs)
    trainer.on_epoch_end()
    return outputs, counts


def test_plain_training_keeps_a_ladder_too(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerPlain, BLOCK | {"ladder": 1})
    rung = Path(trainer.output_folder) / "checkpoint_ladder_001.pth"
    an_epoch(trainer)
    assert not rung.exists(), "of two epochs the last is kept"
    an_epoch(trainer)
    checkpoint = torch.load(rung, weights_only=False)
    assert checkpoint["current_epoch"] == 2
    for name, weight in trainer.network.state_dict().items():
        assert torch.equal(checkpoint["network_weights"][name], weight)


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[] if label in ("IMA", "Adv") else pytest.mark.slow) for label in LABELS]
)
def test_a_training_keeps_its_robust_checkpoint_and_its_ladder(label: str, in_process: Workspace) -> None:
    kind = trainer_named(f"nnUNetTrainer{label}")
    assert kind is not None
    trainer = started(in_process, kind, BLOCK)
    folder = Path(trainer.output_folder)
    outputs, counts = an_epoch(trainer)
    row = trainer.ima_validation.rows[0]
    # nnU-Net's own counts of the same batches say what there was to find.
    assert counts is not None
    own = {name: sum(one[f"{name}_hard"] for one in outputs) for name in ("tp", "fp", "fn")}
    assert np.array_equal(counts[:, [0, 2]].sum(1).numpy(), own["tp"] + own["fn"])
    assert row["noisy"] == pytest.approx(total_voxel_dice_index(counts[None].numpy()))
    assert row["noisy"] <= row["clean"] + 1e-6
    assert trainer.network.decoder.deep_supervision and all(p.requires_grad for p in trainer.network.parameters())
    for name in ("checkpoint_best_robust.pth", "checkpoint_ladder_001.pth"):
        state: dict[str, Any] = torch.load(folder / name, weights_only=False)["ima"]
        assert state["validation"]["kept"] == 0
    with (folder / "validation.csv").open() as file:
        lines = list(csv.DictReader(file))
        assert [line["kept"] for line in lines] == ["1"]
        assert (lines[0]["clean_running"], lines[0]["noisy_running"]) == (lines[0]["clean"], lines[0]["noisy"])
    assert (folder / "validation.png").is_file()
    with Image.open(folder / "progress.png") as picture:
        assert picture.size == (3000, 5400 + 1800), "nnU-Net's three panels and ours"
    again = build(in_process, kind, BLOCK)
    again.load_checkpoint(str(folder / "checkpoint_ladder_001.pth"))
    again.on_train_start()
    assert again.ima_validation.rows == trainer.ima_validation.rows
