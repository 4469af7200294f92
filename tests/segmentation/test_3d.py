"""Training of a 3D configuration, in this process, on real preprocessed volumes."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.blocks import Blocks
from nnunet_ima.segmentation.discovery import nnunet_ima_trainers
from nnunet_ima.segmentation.fingerprint import check_fingerprint
from nnunet_ima.segmentation.loader import loader_of, sample_ids
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.trainers import LABELS, QUICK, attack_from_the_first_step, batches, copied
from tests.segmentation.trainers import started as started_2d

BLOCK = {"noise_max": 6.0, "threshold": 0.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "methods": QUICK}
SETTINGS = {"configuration": "3d_fullres", "batch_size": 2}


def started(workspace: Workspace, trainer: Any, block: dict[str, Any] | None, **plans: Any) -> Any:
    return started_2d(workspace, trainer, block, **SETTINGS | plans)


@pytest.fixture(autouse=True)
def volumes(in_3d: Workspace, in_process: Workspace) -> Workspace:
    return in_process


@pytest.mark.parametrize("label", LABELS)
def test_every_method_attacks_patches(label: str, volumes: Workspace) -> None:
    trainer = started(volumes, getattr(nnunet_ima_trainers, f"nnUNetTrainer{label}"), BLOCK)
    before = copied(trainer.network.state_dict())
    trainer.on_train_epoch_start()
    drawn = batches(trainer, 2)
    for part in drawn[1]["target"]:
        # A patch without foreground.
        part[0] = 0
    outputs = [trainer.train_step(batch) for batch in drawn]
    trainer.on_train_epoch_end(outputs)
    assert all(np.isfinite(output["loss"]) for output in outputs)
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.network.state_dict().items())
    assert trainer.ima_history.rows[-1]["cost"] > 6
    # A step leaves the network as it found it.
    assert "forward" not in vars(trainer.network)


def test_switched_off_it_is_stock_nnunet_bit_for_bit(volumes: Workspace) -> None:
    stock, ima = started(volumes, nnUNetTrainer, None), started(volumes, nnUNetTrainerIMA, {"noise_max": 0.0})
    for batch in batches(ima, 2):
        expected, result = stock.train_step(copied(batch)), ima.train_step(copied(batch))
        assert result["loss"] == expected["loss"]
    for name, weight in stock.network.state_dict().items():
        assert torch.equal(weight, ima.network.state_dict()[name]), name


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_activations_computed_again_change_nothing(volumes: Workspace, compiled: bool) -> None:
    made = [started(volumes, nnUNetTrainerIMA, BLOCK | {"recompute": again}) for again in (True, False)]
    assert [trainer._recomputes for trainer in made] == [True, False]
    assert started(volumes, nnUNetTrainerIMA, BLOCK)._recomputes
    batch = batches(made[0], 1)[0]
    losses = []
    for trainer in made:
        attack_from_the_first_step(trainer, batch)
        if compiled:
            # As nnU-Net does on CUDA, without code generation.
            trainer.network = torch.compile(trainer.network, backend="aot_eager")
            assert trainer._recomputes == (trainer is made[0])
        losses.append(trainer.train_step(copied(batch))["loss"])
    # The first iterate of the attack is the clean pass itself in the one, its like in the other.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert made[0].ima.tally.correct == made[1].ima.tally.correct > 0


def test_margins_belong_to_blocks(volumes: Workspace) -> None:
    trainer = started(volumes, nnUNetTrainerIMA, BLOCK)
    assert {len(sample) for sample in trainer.ima.store.ids} == {4}
    blocks = Counter(sample[0] for sample in trainer.ima.store.ids)
    assert len(blocks) == 4 and all(1 < count <= 18 for count in blocks.values())
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(batch) for batch in batches(trainer, 2)])
    assert 0 < int(trainer.ima.store.visits.sum()) <= 4


def test_the_block_named_is_the_block_drawn(volumes: Workspace) -> None:
    """Validation batches are cropped only, so their voxels can be found again in the volume itself."""
    trainer = started(volumes, nnUNetTrainerIMA, BLOCK)
    batch = next(trainer.dataloader_val)
    dataset, blocks = loader_of(trainer.dataloader_val)._data, Blocks.of((10, 32, 32))
    for image, (case, *number) in zip(batch["data"], sample_ids(batch), strict=True):
        volume = np.asarray(dataset.load_case(case)[0][:])[0]
        middle = image[0, 5].numpy()
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(volume[5], 32), middle.shape)
        top, left = np.argwhere((windows == middle).all((2, 3)))[0] - 32
        assert tuple(number) == blocks.number((5, top + 16, left + 16), volume.shape)


def test_a_patch_without_foreground_has_no_margin(volumes: Workspace) -> None:
    trainer = started(volumes, nnUNetTrainerIMA, BLOCK)
    batch = batches(trainer, 1)[0]
    for part in batch["target"]:
        part[0], part[1] = 0, 1
    first, second = trainer._sample_ids(batch)
    assert first is None and second == sample_ids(batch)[1]
    attack_from_the_first_step(trainer, batch)
    trainer.train_step(batch)
    assert trainer.ima.tally.eligible <= 1


def test_margins_of_slices_do_not_fit_blocks(volumes: Workspace) -> None:
    stored = started_2d(volumes, nnUNetTrainerIMA, {"epochs": 1}).ima_fingerprint
    now = started(volumes, nnUNetTrainerIMA, BLOCK).ima_fingerprint
    with pytest.raises(UserError, match=r"belong to another preprocessing: continue with the plans"):
        check_fingerprint(stored, now)


def test_largest_margin_is_a_tenth_of_an_sd_per_voxel_by_default(volumes: Workspace) -> None:
    trainer = started(volumes, nnUNetTrainerIMA, {"epochs": 1, "iterations": 1})
    assert trainer.ima.store.maximum == pytest.approx(0.1 * (10 * 32 * 32) ** 0.5)


def test_without_foreground_there_is_nothing_to_defend(volumes: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blocks, "showing", lambda self, foreground: [])
    with pytest.raises(SystemExit, match=r"None of the \d+ training blocks has foreground: IMA has nothing to defend"):
        started(volumes, nnUNetTrainerIMA, BLOCK)
