"""`nnUNetTrainerPlain`: stock nnU-Net, with the checks and the length that IMA's trainer shares."""

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ima.errors import is_out_of_memory
from nnunet_ima.methods.history import time_left
from nnunet_ima.nnunet.dataset_names import accept_letter_d
from nnunet_ima.segmentation import refusals
from nnunet_ima.segmentation.pretrained import keep_heads_of_same_labels
from nnunet_ima.segmentation.refusals import one_sentence
from nnunet_ima.segmentation.settings import Settings

accept_letter_d()


class nnUNetTrainerPlain(nnUNetTrainer):
    """Stock nnU-Net with the length given in the plans' "ima" block, for a fair comparison.

    As in IMA's trainer, `-pretrained_weights` keeps the segmentation heads where the labels are the same.
    """

    # Set by nnU-Net.
    num_epochs: int
    num_iterations_per_epoch: int
    num_val_iterations_per_epoch: int
    save_every: int
    loss: Any

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
        Settings.of(plans)

    def initialize(self) -> None:
        if not self.was_initialized:
            self.ima_settings = Settings.of(self.plans_manager.plans)
            self.num_epochs = self.ima_settings.epochs or self.num_epochs
            self.num_iterations_per_epoch = self.ima_settings.iterations or self.num_iterations_per_epoch
            self.num_val_iterations_per_epoch = self.ima_settings.val_iterations or self.num_val_iterations_per_epoch
            # nnU-Net's 50 suit its 1000 epochs: an interrupted training shall lose at most a tenth of its work.
            self.save_every = min(self.save_every, max(1, self.num_epochs // 10))
        super().initialize()
        keep_heads_of_same_labels(self.dataset_json)

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            with one_sentence():
                self.ima_lock = refusals.lock_fold(Path(self.output_folder))
        super().on_train_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
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

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        ended, started = (self.logger.get_value(f"epoch_{what}_timestamps", step=-1) for what in ("end", "start"))
        self.print_to_log_file(time_left(ended - started, self.num_epochs - self.current_epoch))
