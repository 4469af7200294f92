"""`nnUNetTrainerIMA` and its like: nnU-Net's own training loop with a method's noisy slices.

No `__init__` (nnU-Net forbids it), no copy of nnU-Net's step: the step runs as it is, with a loss that also attacks
the batch it was given and adds the loss of the noisy slices.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from nnunet_ima.attacks.buckets import bucketed, eighths, halves
from nnunet_ima.attacks.frozen import Model, frozen
from nnunet_ima.attacks.modes import same_in_eval_mode
from nnunet_ima.attacks.precision import attack_precision, training_pass_serves
from nnunet_ima.errors import UserError
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.cost import PLAIN_STEP
from nnunet_ima.methods.history import History
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.method import Method, Run, alone
from nnunet_ima.methods.optimizer_steps import steps_of
from nnunet_ima.nnunet.ranks import gathered
from nnunet_ima.segmentation import refusals
from nnunet_ima.segmentation.batch import SegmentationBatch, SegmentationPass, full_size
from nnunet_ima.segmentation.blocks import Blocks, SampleId, intensity_range, samples_of
from nnunet_ima.segmentation.fingerprint import check_fingerprint, fingerprint, load_margins, new_margins_wanted
from nnunet_ima.segmentation.loader import loader_of, naming_blocks, probability_of_a_visit, sample_ids
from nnunet_ima.segmentation.noisy_validation import NoisyValidation
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.in_turn import in_turn
from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain
from nnunet_ima.segmentation.recompute import keeping_activations, recomputed
from nnunet_ima.segmentation.refusals import one_sentence
from nnunet_ima.segmentation.settings import Settings


class nnUNetTrainerMethod(nnUNetTrainerPlain):
    """Training of a 2D or 3D configuration by a `Method`; settings from the plans' "ima" block (`Settings`).

    With a method that keeps margins the fold's output folder also gets `margins.csv` and `margins.png`, and checkpoints
    carry the margins under "ima".
    """

    method: type[Method]
    level: float | None = None
    """Noise level in the trainer's name (nnUNetTrainerAdv5)."""

    ima_step = 0
    """Of the epoch."""
    ima_validation: NoisyValidation | None = None
    ima_repeats = False
    """Whether the loss of a step is asked for once more."""

    @classmethod
    def _check_plans(cls, plans: dict[str, Any], configuration: str) -> None:
        super()._check_plans(plans, configuration)
        refusals.check_configuration(plans, configuration, cls.__name__)
        settings = Settings.of(plans)
        method = settings.build(cls.method, cls.level, 1, (1, 1))
        method.begin(Run([], 1))
        settings.check_budget(method.label, PLAIN_STEP if method.is_off else method.usual_cost)

    def initialize(self) -> None:
        super().initialize()
        self.ima_objective = SegmentationObjective.of(
            self.label_manager, self.ima_settings.threshold, self.ima_settings.dice
        )
        plans = self.plans_manager.plans
        self.ima_blocks = Blocks.of(self.configuration_manager.patch_size)
        self.ima_fingerprint = fingerprint(plans, self.configuration_name, self.dataset_json, self.ima_settings.norm)
        self.ima_noisy_loss = self._build_noisy_loss() if self.is_ddp else None
        level, norm = self.ima_settings.val_noise, self.ima_settings.norm
        if level is not None:
            self.ima_validation = NoisyValidation(level, norm, self.ima_settings.clean_loss)
        if self._is_compiled:
            # Training, attack and bisection, each at few batch sizes, pass torch's 8 graphs per network; beyond its
            # limit the network would run uncompiled.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)

    def configure_optimizers(self) -> Any:
        if self.is_ddp:
            # The network is there, and not yet spread over the ranks.
            with one_sentence():
                refusals.check_ranks_in_step(self.network, self.method.label)
        return super().configure_optimizers()

    def _build_noisy_loss(self) -> Any:
        """nnU-Net's loss without its exchange between ranks, for batches of twins that differ in size from rank to
        rank: their Dice is that of the rank's own batch."""
        self.is_ddp = False
        try:
            loss = self._build_loss()
        finally:
            self.is_ddp = True
        if self.enable_deep_supervision:
            # Without DDP nnU-Net leaves the lowest resolution out; a loss of noisy slices only would then give its head
            # no gradient, for which DDP waits.
            loss.weight_factors = self.loss.weight_factors
        return loss

    def get_dataloaders(self) -> Any:
        with naming_blocks():
            return super().get_dataloaders()

    def on_train_start(self) -> None:
        with one_sentence():
            if self.ima_checkpoint is not None and "fingerprint" in self.ima_checkpoint and not new_margins_wanted():
                # Before nnU-Net writes these plans over those of the checkpoint's model folder.
                check_fingerprint(self.ima_checkpoint["fingerprint"], self.ima_fingerprint)
            super().on_train_start()
        self.print_to_log_file(self.ima, self.ima_settings)
        if self.ima.remark:
            self.print_to_log_file(f"{self.ima.label}: {self.ima.remark}")

    def _continue_from(self, checkpoint: dict[str, Any]) -> None:
        super()._continue_from(checkpoint)
        self.ima, self.ima_history = self._build_method(), History()
        if self.ima_validation is not None and "validation" in checkpoint:
            self.ima_validation.load_state(checkpoint["validation"])
        if "store" not in checkpoint:
            return
        self.ima_history.load_state(checkpoint["history"])
        if new_margins_wanted():
            self.print_to_log_file("The margins start anew, as asked for.")
        else:
            load_margins(self.ima, checkpoint["store"])

    def _build_method(self) -> Method:
        """UserError where the method needs samples with foreground, and there are none."""
        settings, patch = self.ima_settings, tuple(self.configuration_manager.patch_size)
        method = settings.build(self.method, self.level, self.num_input_channels, patch)
        dataset = loader_of(self.dataloader_train)._data
        blocks = self.ima_blocks
        samples, total = samples_of(dataset, self.label_manager, blocks, show_progress=self.local_rank == 0)
        if not samples:
            raise UserError(
                f"None of the {total} training {'slices' if blocks.are_slices else 'blocks'} has foreground: "
                f"{method.label} has nothing to defend; check the labels."
            )
        steps = self.num_iterations_per_epoch
        if self.ima_budget is not None:
            steps = self.ima_budget.steps(0, method.usual_cost)
        draws = steps * self.configuration_manager.batch_size
        shape = (self.num_input_channels, *patch)
        seen = probability_of_a_visit(total, draws)
        method.begin(Run(samples, self.num_epochs, seen, shape, lambda: intensity_range(dataset, blocks, samples)))
        what = "training slices have foreground"
        if not blocks.are_slices:
            # A patch shows whole neighbourhoods: few blocks are visited often, many hardly ever.
            what = f"blocks of the training cases can show foreground, {draws / total:.2g} patches a block and epoch"
        margins = f"; {method.store}" if isinstance(method, Adaptive) else ""
        self.print_to_log_file(f"{method.label}: {len(samples)} of {total} {what}{margins}")
        return method

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.ima.is_off:
            return super().train_step(batch)
        # On its device already, so that nnU-Net's own .to() passes this very tensor to the network.
        data = batch["data"].to(self.device, non_blocking=True).requires_grad_(self._shares_clean_pass)
        stock_loss = self.loss
        self.loss = partial(self._ima_loss, stock_loss, data, self._sample_ids(batch))
        self.ima.start_step()
        self.ima_step += 1
        try:
            with steps_of(self.optimizer) as taken, self._recomputed():
                return super().train_step({**batch, "data": data})
        finally:
            self.loss = stock_loss
            self.ima.end_step(counts=bool(taken))

    def _sample_ids(self, batch: dict[str, Any]) -> list[SampleId | None]:
        """None for a patch that shows no foreground of its block's surroundings: it can be neither right nor wrong."""
        if self.ima_blocks.are_slices:
            return [*sample_ids(batch)]
        reference, _ = self.ima_objective.reference(full_size(batch["target"]))
        shown = reference.flatten(1).any(1).tolist()
        return [one if has_foreground else None for one, has_foreground in zip(sample_ids(batch), shown, strict=True)]

    @property
    def _recomputes(self) -> bool:
        """Whether training passes keep no activations (`recomputed`). A network with batch normalisation keeps them: a
        second forward pass would count the batch twice in its statistics."""
        wanted = self.ima_settings.recompute
        chosen = not self.ima_blocks.are_slices if wanted is None else wanted
        return chosen and same_in_eval_mode(self._inner_network)

    def _recomputed(self) -> AbstractContextManager[object]:
        return recomputed(self._inner_network) if self._recomputes else nullcontext()

    @property
    def _inner_network(self) -> nn.Module:
        """Under DDP the network inside: a rank that attacks or has no twins must not wait for the others."""
        network: nn.Module = self.network.module if self.is_ddp else self.network
        return network

    @property
    def _is_compiled(self) -> bool:
        return isinstance(self._inner_network, OptimizedModule)

    @property
    def _shares_clean_pass(self) -> bool:
        """Whether the training pass on the clean slices serves as the attack's first iterate.

        A compiled graph cannot be kept for a second backward, one whose activations are computed again is not there,
        and with batch statistics or dropout the training pass is not what the attacked network computes.
        """
        return not self._is_compiled and not self._recomputes and same_in_eval_mode(self._inner_network)

    def _bucket_sizes(self, largest: int) -> list[int] | None:
        """The batch sizes that the network may meet; None: any. Every further size costs seconds on CUDA: cuDNN, which
        nnU-Net tells to, times its algorithms for each."""
        if self._is_compiled:
            return halves(largest)
        return eighths(largest) if self.device.type == "cuda" else None

    def _in_buckets(self, largest: int) -> Any:
        sizes = self._bucket_sizes(largest)
        return self._inner_network if sizes is None else bucketed(self._inner_network, sizes)

    def _for_training(self, largest: int) -> Any:
        """The network for training passes on some samples of a batch. Batch normalisation would count the copies that
        fill a bucket in its statistics: such a network meets the batch as it is."""
        inner = self._inner_network
        return self._in_buckets(largest) if same_in_eval_mode(inner) else inner

    def _ima_loss(
        self, stock_loss: nn.Module, data: Tensor, ids: Sequence[SampleId | None], output: Any, target: Any
    ) -> Tensor:
        """The method's loss of a step, built of nnU-Net's loss on the clean output and on noisy slices."""
        alone = self.ima_noisy_loss or stock_loss
        clean = SegmentationPass(output, target, stock_loss, alone)
        # Asked here, within nnU-Net's autocast.
        shares = self._shares_clean_pass and training_pass_serves(self.device, self.ima_settings.attack_precision)
        objective = self.ima_objective
        if self.ima_settings.attack_loss == "in_turn":
            objective = in_turn(objective, self.ima_step - 1)
        batch = SegmentationBatch(
            data,
            target,
            ids,
            objective,
            clean,
            clean.logits if shares else None,
            self._for_training(len(data)),
            partial(self._open_attack, len(data)),
        )
        return self.ima.repeated_loss(batch) if self.ima_repeats else self.ima.step_loss(batch)

    def _loss_again(self, batch: dict[str, Any]) -> Tensor:
        self.ima_repeats = True
        try:
            return super()._loss_again(batch)
        finally:
            self.ima_repeats = False

    def step_cost(self) -> float:
        if self.ima.is_off:
            return super().step_cost()
        usual = self.ima.usual_cost + (6 if self.ima_settings.awp else 0)
        # A checkpoint of an earlier version holds no costs.
        return self.ima_history.rows[-1].get("cost", usual) if self.ima_history.rows else usual

    @contextmanager
    def _open_attack(self, largest: int) -> Iterator[Model]:
        inner = self._inner_network
        with self._single_output(), frozen(inner), keeping_activations(inner), self._attack_precision():
            yield self._in_buckets(largest)

    @contextmanager
    def _single_output(self) -> Iterator[None]:
        """The attack needs the full-size output only: the heads of the other resolutions are not computed."""
        self.set_deep_supervision_enabled(False)
        try:
            yield
        finally:
            self.set_deep_supervision_enabled(self.enable_deep_supervision)

    def _attack_precision(self) -> AbstractContextManager[object]:
        return attack_precision(self.device, self.ima_settings.attack_precision)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.ima.start_epoch(self.current_epoch / self.num_epochs)
        self.ima_step = 0
        self.ima_epoch_start = perf_counter()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        if not self.ima.is_off:
            self._end_epoch()
        super().on_train_epoch_end(train_outputs)

    def _end_epoch(self) -> None:
        """What the attacks of the epoch showed, into the margins, the files and the log."""
        seconds = perf_counter() - self.ima_epoch_start
        tally = self.ima.end_epoch(gathered if self.is_ddp else alone)
        store = self.ima.store if isinstance(self.ima, Adaptive) else None
        self.ima_history.add(self.current_epoch, tally, store, seconds, self.num_iterations_per_epoch)
        if self.local_rank == 0:
            self.ima_history.write(Path(self.output_folder), store)
        self.print_to_log_file(f"{self.ima.label}: {self.ima_history.last_line()}")

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.ima_validation is not None:
            # Before nnU-Net's own step, which overwrites the ignore label in the batch.
            x = batch["data"].to(self.device, non_blocking=True)
            y = full_size(batch["target"]).to(self.device, non_blocking=True)
            with self._open_attack(len(x)) as network:
                self.ima_validation.add(network, self.ima_objective, x, y)
        return super().validation_step(batch)  # type: ignore[no-any-return]

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        super().on_validation_epoch_end(val_outputs)
        folder = Path(self.output_folder)
        if self.ima_validation is not None:
            counts = self.ima_validation.counted()
            found = gathered(counts) if self.is_ddp else [counts]
            clean = float(self.logger.get_value("mean_fg_dice", step=-1))
            margin = self.ima.store.margins.mean().item() if isinstance(self.ima, Adaptive) else None
            best = self.ima_validation.end_epoch(self.current_epoch, clean, found, margin)
            self.print_to_log_file(f"{self.ima.label}: {self.ima_validation.line()}")
            if self.local_rank == 0:
                self.ima_validation.write(folder)
            if best:
                self.save_checkpoint(str(folder / "checkpoint_best_robust.pth"))

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.ima_validation is not None and self.local_rank == 0:
            self.ima_validation.append_to_progress(Path(self.output_folder))

    def _own_state(self) -> dict[str, Any]:
        validation = {} if self.ima_validation is None else {"validation": self.ima_validation.state()}
        return (
            super()._own_state()
            | validation
            | {"store": self.ima.state(), "history": self.ima_history.state(), "fingerprint": self.ima_fingerprint}
        )

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        if "store" not in (self.ima_checkpoint or {}):
            self.print_to_log_file("The checkpoint holds no margins: they start anew.")


class nnUNetTrainerIMA(nnUNetTrainerMethod):
    """IMA training (arXiv:2005.09147)."""

    method = IMA
