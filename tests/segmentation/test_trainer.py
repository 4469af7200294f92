"""The trainers against stock nnU-Net, on real preprocessed slices, in this process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ima.segmentation.loader import loader_of, sample_ids
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from nnunet_ima.segmentation.trainers import trainer_named
from tests.conftest import Workspace
from tests.models import recorded_sizes
from tests.segmentation.trainers import attack_from_the_first_step, batches, build, copied, started

SHORT = {"noise_max": 60.0, "margin_step": 30.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 4}


@pytest.mark.parametrize("block", [{"beta": 0.0}, {"noise_max": 0.0}], ids=str)
def test_switched_off_it_is_stock_nnunet_bit_for_bit(in_process: Workspace, block: dict[str, Any]) -> None:
    stock = started(in_process, nnUNetTrainer, None)
    ima = started(in_process, nnUNetTrainerIMA, block)
    for batch in batches(ima, 3):
        expected, result = stock.train_step(copied(batch)), ima.train_step(copied(batch))
        assert result["loss"] == expected["loss"]
    for name, weight in stock.network.state_dict().items():
        assert torch.equal(weight, ima.network.state_dict()[name]), name


def test_ids_name_cases_and_slices_of_the_data_set(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    batch = batches(trainer, 1)[0]
    ids = sample_ids(batch)
    assert [case for case, _ in ids] == batch["keys"].tolist()
    dataset = loader_of(trainer.dataloader_train)._data
    for case, number in ids:
        assert 0 <= number < dataset.load_case(case)[0].shape[1]


def test_the_slice_named_is_the_slice_drawn(in_process: Workspace) -> None:
    """Validation batches are cropped only, so their pixels can be found again in the slice itself."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    batch = next(trainer.dataloader_val)
    dataset = loader_of(trainer.dataloader_val)._data
    for image, (case, number) in zip(batch["data"], sample_ids(batch), strict=True):
        slices = np.asarray(dataset.load_case(case)[0][:])[0]
        shared = [np.isin(image.numpy(), candidate).mean() for candidate in slices]
        assert int(np.argmax(shared)) == number


def test_without_a_correct_slice_the_clean_loss_weighs_one_minus_beta(in_process: Workspace) -> None:
    stock = started(in_process, nnUNetTrainer, None)
    ima = started(in_process, nnUNetTrainerIMA, SHORT | {"beta": 0.3})
    ima.ima_objective.threshold = 1.0
    batch = batches(ima, 1)[0]
    expected, result = stock.train_step(copied(batch)), ima.train_step(copied(batch))
    assert result["loss"] == pytest.approx(0.7 * expected["loss"], rel=1e-5)
    assert ima.ima.tally.correct == 0 and ima.ima.tally.eligible > 0


def test_the_step_is_the_papers_mix_of_clean_and_noisy_loss(
    in_process: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(1-beta) l(clean) + beta * share * l(twins), recomputed here with nnU-Net's loss from the twins themselves."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT | {"attack_precision": "float32"})
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    found: list[Any] = []
    original = trainer.ima.boundary

    def remembered(*args: Any) -> Any:
        found.append(original(*args))
        return found[0]

    monkeypatch.setattr(trainer.ima, "boundary", remembered)
    weights = copied(trainer.network.state_dict())
    result = trainer.train_step(copied(batch))["loss"]
    rows = found[0].crossed.nonzero().squeeze(1)
    assert 0 < len(rows) <= 4
    trainer.network.load_state_dict(weights)
    with torch.no_grad():
        clean = trainer.loss(trainer.network(batch["data"]), batch["target"])
        noisy = trainer.loss(trainer.network(found[0].x[rows]), [part[rows] for part in batch["target"]])
    assert result == pytest.approx((0.5 * clean + 0.5 * len(rows) / 4 * noisy).item(), rel=1e-4)


def test_a_step_leaves_the_network_as_nnunet_wants_it(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    stock_loss = trainer.loss
    trainer.network.train()
    trainer.train_step(batch)
    assert trainer.ima.tally.crossed > 0
    assert trainer.loss is stock_loss
    assert trainer.network.decoder.deep_supervision
    assert all(module.training for module in trainer.network.modules())
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())


def test_sample_forwards_of_a_step_follow_the_cost_model(in_process: Workspace) -> None:
    """Clean pass 1, one forward per attack step, 10 bisections and 1 noisy pass for a slice that crosses: 15 when
    all cross at step 3."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT | {"steps": 20})
    batch = batches(trainer, 1)[0]
    attack_from_the_first_step(trainer, batch)
    sizes = recorded_sizes(trainer.network)
    trainer.train_step(batch)
    tally = trainer.ima.tally
    assert tally.crossed > 0
    assert sum(sizes) == 4 + tally.attack_steps + 11 * tally.crossed


def test_margins_travel_in_the_checkpoint_and_come_back_exactly(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    some = batches(trainer, 3)
    attack_from_the_first_step(trainer, some[0])
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(batch) for batch in some])
    assert (trainer.ima.store.margins != 30.0).any()
    file = str(tmp_path / "checkpoint_latest.pth")
    trainer.save_checkpoint(file)
    again = build(in_process, nnUNetTrainerIMA, SHORT)
    again.load_checkpoint(file)
    again.on_train_start()
    assert torch.equal(again.ima.store.margins, trainer.ima.store.margins)
    assert torch.equal(again.ima.store.visits, trainer.ima.store.visits)
    assert again.ima.store.ids == trainer.ima.store.ids
    assert again.ima_history.rows == trainer.ima_history.rows
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_latest.pth"]


def test_the_checkpoint_holds_nothing_of_ours_but_plain_data(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint_final.pth", weights_only=False)
    torch.save(checkpoint["ima"], tmp_path / "ima.pth")
    state = torch.load(tmp_path / "ima.pth", weights_only=True)
    assert state["store"]["ids"] == [list(sample) for sample in trainer.ima.store.ids]


def test_a_stock_checkpoint_starts_margins_anew(in_process: Workspace, tmp_path: Path) -> None:
    plain = started(in_process, nnUNetTrainerPlain, SHORT)
    plain.save_checkpoint(str(tmp_path / "stock.pth"))
    trainer = build(in_process, nnUNetTrainerIMA, SHORT)
    trainer.load_checkpoint(str(tmp_path / "stock.pth"))
    trainer.on_train_start()
    assert (trainer.ima.store.margins == 30.0).all()


def test_margins_of_other_cases_are_refused_in_one_sentence(in_process: Workspace, tmp_path: Path) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["ima"]["store"]["ids"][0] = ["somebody_else", 0]
    torch.save(checkpoint, file)
    again = build(in_process, nnUNetTrainerIMA, SHORT)
    again.load_checkpoint(str(file))
    with pytest.raises(SystemExit, match="of which 37 are among the 38 of"):
        again.on_train_start()


def test_length_comes_from_the_block_and_is_nnunets_own_without_one(in_process: Workspace) -> None:
    for trainer in (nnUNetTrainerPlain, nnUNetTrainerIMA):
        short = build(in_process, trainer, SHORT)
        assert (short.num_epochs, short.num_iterations_per_epoch, short.num_val_iterations_per_epoch) == (2, 2, 1)
        stock = build(in_process, trainer, None)
        assert (stock.num_epochs, stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch) == (1000, 250, 50)
        assert stock.optimizer.param_groups[0]["lr"] == 0.01
        fast = build(in_process, trainer, SHORT | {"initial_lr": 0.03})
        assert fast.optimizer.param_groups[0]["lr"] == fast.lr_scheduler.initial_lr == 0.03


def test_largest_margin_is_a_tenth_of_an_sd_per_pixel_by_default(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, None)
    height, width = trainer.configuration_manager.patch_size
    assert trainer.ima.store.maximum == pytest.approx(0.1 * (height * width) ** 0.5)


def test_a_remark_of_the_method_is_in_the_log(in_process: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_named("nnUNetTrainerIAAT")
    assert trainer is not None
    started(in_process, trainer, {"noise_max": 5.0, "epochs": 1})
    assert "IAAT: warm_up 5 takes all of the epochs, 1" in capsys.readouterr().out


def test_the_second_stage_of_a_cascade_is_refused(in_process: Workspace) -> None:
    with pytest.raises(SystemExit, match=r"cascade, whose input is partly the segmentation .* train 3d_lowres or"):
        build(in_process, nnUNetTrainerIMA, SHORT, previous_stage="3d_lowres")


def test_a_bad_block_is_refused_naming_the_key(in_process: Workspace) -> None:
    with pytest.raises(SystemExit, match="'noisemax'"):
        build(in_process, nnUNetTrainerIMA, {"noisemax": 5})


def test_history_is_written_beside_the_checkpoints(in_process: Workspace) -> None:
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(batch) for batch in batches(trainer, 2)])
    folder = Path(trainer.output_folder)
    assert (folder / "margins.png").read_bytes().startswith(b"\x89PNG")
    header, row = (folder / "margins.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert values["epoch"] == "0" and float(values["margin_q50"]) >= 0
