"""`nnUNetTrainerPlain`: stock nnU-Net, with the checks and the length that IMA's trainer shares."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_ima.errors import UserError, is_out_of_memory
from nnunet_ima.files import replacing
from nnunet_ima.methods.averaging import Average
from nnunet_ima.methods.budget import Budget
from nnunet_ima.methods.cost import PLAIN_STEP
from nnunet_ima.methods.history import time_left
from nnunet_ima.methods.optimizer_steps import steps_of
from nnunet_ima.methods.weight_noise import LARGEST_GRADIENT, weight_noise
from nnunet_ima.nnunet.dataset_names import accept_letter_d
from nnunet_ima.segmentation import refusals
from nnunet_ima.segmentation.noisy_validation import rung_of
from nnunet_ima.segmentation.pretrained import keep_heads_of_same_labels
from nnunet_ima.segmentation.refusals import one_sentence
from nnunet_ima.segmentation.settings import Settings

accept_letter_d()


class nnUNetTrainerPlain(nnUNetTrainer):
    """Stock nnU-Net with the length given in the plans' "ima" block, for a fair comparison, and on request with an
    average of the weights and noise on the weights.

    As in IMA's trainer, `-pretrained_weights` keeps the segmentation heads where the labels are the same.
    """

    # Set by nnU-Net.
    num_epochs: int
    num_iterations_per_epoch: int
    num_val_iterations_per_epoch: int
    initial_lr: float
    save_every: int
    loss: Any

    ima_average: Average | None = None
    ima_budget: Budget | None = None
    ima_checkpoint: dict[str, Any] | None = None
    """What we added to the checkpoint that was loaded, until training starts."""

    def __new__(
        cls,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 (nnU-Net's own signature)
    ) -> Any:
        """What can be refused is refused here: nnU-Net's `__init__` creates folders and a log file."""
        with one_sentence():
            refusals.check_device(device)
            refusals.check_dataset(plans, dataset_json)
            refusals.check_results_folder()
            cls._check_plans(plans, configuration)
        return super().__new__(cls)

    @classmethod
    def _check_plans(cls, plans: dict[str, Any], configuration: str) -> None:
        Settings.of(plans).check_budget("nnU-Net", PLAIN_STEP)

    def initialize(self) -> None:
        if not self.was_initialized:
            self.ima_settings = Settings.of(self.plans_manager.plans)
            self.num_epochs = self.ima_settings.epochs or self.num_epochs
            self.num_iterations_per_epoch = self.ima_settings.iterations or self.num_iterations_per_epoch
            self.num_val_iterations_per_epoch = self.ima_settings.val_iterations or self.num_val_iterations_per_epoch
            if self.ima_settings.initial_lr is not None:
                self.initial_lr = self.ima_settings.initial_lr
            # nnU-Net's 50 suit its 1000 epochs: an interrupted training shall lose at most a tenth of its work.
            self.save_every = min(self.save_every, max(1, self.num_epochs // 10))
            if self.ima_settings.budget is not None:
                self.ima_budget = Budget(self.ima_settings.budget, self.num_epochs)
        super().initialize()
        keep_heads_of_same_labels(self.dataset_json)

    def configure_optimizers(self) -> Any:
        if self.is_ddp and self.ima_settings.awp:
            with one_sentence():
                raise UserError(
                    f"awp {self.ima_settings.awp:g} is for one GPU only: use -num_gpus 1, or write plans without --awp."
                )
        return super().configure_optimizers()

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            with one_sentence():
                self.ima_lock = refusals.lock_fold(Path(self.output_folder))
        # Out of the attributes, which nnU-Net writes to debug.json as text.
        checkpoint, self.ima_checkpoint = self.ima_checkpoint or {}, None
        super().on_train_start()
        with one_sentence():
            self._continue_from(checkpoint)

    def _continue_from(self, checkpoint: dict[str, Any]) -> None:
        """Take up what we added to the checkpoint that was loaded, if any was. UserError where it does not fit."""
        if self.ima_budget is not None:
            self.ima_budget.spent = checkpoint.get("spent", 0.0)
        if self.ima_settings.ema or "average" in checkpoint:
            average = Average(self.network, self.ima_settings.ema)
            if "average" in checkpoint:
                average.load_state(checkpoint["average"])
            average.hide()
            self.ima_average = average if self.ima_settings.ema else None

    def step_cost(self) -> float:
        """What a training step costs, in forwards of its batch; an estimate as long as none was taken."""
        return PLAIN_STEP * (2 if self.ima_settings.awp else 1)

    def on_train_epoch_start(self) -> None:
        if self.ima_average is not None:
            self.ima_average.hide()
        if self.ima_budget is not None:
            self.num_iterations_per_epoch = self.ima_budget.steps(self.current_epoch, self.step_cost())
        super().on_train_epoch_start()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        if self.ima_budget is not None:
            self.ima_budget.spend(self.num_iterations_per_epoch, self.step_cost())
        if self.ima_average is not None:
            # What nnU-Net validates, saves, and predicts with at the end.
            self.ima_average.show()
        super().on_train_epoch_end(train_outputs)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's own step, with weight noise and the average of the weights where they are wanted."""
        with steps_of(self.optimizer) as taken, self._weight_noise(batch):
            done = self._stock_step(batch)
        if self.ima_average is not None and taken:
            self.ima_average.update()
        return done

    def _weight_noise(self, batch: dict[str, Any]) -> Any:
        scaler = self.grad_scaler
        scale = (lambda: 1.0) if scaler is None else scaler.get_scale
        again = partial(self._loss_again, batch)
        return weight_noise(self.optimizer, self.ima_settings.awp, again, scale, LARGEST_GRADIENT)

    def _loss_again(self, batch: dict[str, Any]) -> Tensor:
        """The loss of the step once more, at weights that have moved."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = batch["target"]
        target = [part.to(self.device) for part in target] if isinstance(target, list) else target.to(self.device)
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            loss: Tensor = self.loss(self.network(data), target)
        return loss

    def _stock_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().train_step(batch)  # type: ignore[no-any-return]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise SystemExit(
                f"A training step on {len(batch['data'])} slices of {' x '.join(map(str, batch['data'].shape[1:]))} "
                f"does not fit into the memory of {self.device}: give a smaller batch with nnunet-ima-plan "
                "--batch-size, or close other programs."
            ) from error

    def _own_state(self) -> dict[str, Any]:
        """What we add to a checkpoint, under "ima": plain tensors and numbers."""
        average = {} if self.ima_average is None else {"average": self.ima_average.state()}
        return average if self.ima_budget is None else average | {"spent": self.ima_budget.spent}

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with what is ours under "ima", moved into place when it is complete."""
        own = self._own_state()
        if not own or self.disable_checkpointing or self.local_rank != 0:
            return super().save_checkpoint(filename)  # type: ignore[no-any-return]
        with replacing(filename) as temporary:
            super().save_checkpoint(str(temporary))
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)
            torch.save(checkpoint | {"ima": own}, temporary)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        if not self.was_initialized:
            self.initialize()
        with one_sentence(), refusals.readable_checkpoint(filename_or_checkpoint):
            super().load_checkpoint(filename_or_checkpoint)
            checkpoint = filename_or_checkpoint
            if isinstance(checkpoint, str):
                checkpoint = torch.load(checkpoint, map_location="cpu", weights_only=False)
        self.ima_checkpoint = checkpoint.get("ima")

    def on_epoch_end(self) -> None:
        rung = rung_of(self.current_epoch, self.num_epochs, self.ima_settings.ladder)
        if rung is not None:
            self.save_checkpoint(str(Path(self.output_folder) / f"checkpoint_ladder_{rung:03d}.pth"))
        super().on_epoch_end()
        ended, started = (self.logger.get_value(f"epoch_{what}_timestamps", step=-1) for what in ("end", "start"))
        self.print_to_log_file(time_left(ended - started, self.num_epochs - self.current_epoch))
