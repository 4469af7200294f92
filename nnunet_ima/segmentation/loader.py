"""nnU-Net's data loader, which also says which slice or block each sample is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module  # noqa: N813 (a module)

from nnunet_ima.segmentation.blocks import Blocks, SampleId


class BlockNamingDataLoader(nnUNetDataLoader):
    """Adds `blocks` to nnU-Net's batch, (N, 1) int64 in 2D, the slices, (N, 3) in 3D; batches are otherwise exactly
    the same."""

    def get_bbox(self, data_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Called by nnU-Net once per sample. A 2D patch is one slice thick there."""
        lower, upper = super().get_bbox(data_shape, *args, **kwargs)
        final = self.final_patch_size[1:] if self.patch_size_was_2d else self.final_patch_size
        centre = [int(low) + int(side) // 2 for low, side in zip(lower, self.patch_size, strict=True)]
        self._drawn_blocks.append(Blocks.of(final).number(centre, data_shape))
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        self._drawn_blocks: list[tuple[int, ...]] = []
        batch: dict[str, Any] = super().generate_train_batch()
        if len(self._drawn_blocks) != len(batch["keys"]):
            raise RuntimeError(
                f"nnU-Net drew {len(self._drawn_blocks)} patches for {len(batch['keys'])} samples: this version of "
                "nnunetv2 loads data in a way nnunet-ima does not know; use 2.8.x."
            )
        batch["blocks"] = np.asarray(self._drawn_blocks, dtype=np.int64)
        return batch


def sample_ids(batch: dict[str, Any]) -> list[SampleId]:
    """What the margin of each sample of a batch of `BlockNamingDataLoader` belongs to."""
    return [(str(key), *map(int, number)) for key, number in zip(batch["keys"], batch["blocks"], strict=True)]


@contextmanager
def naming_blocks() -> Iterator[None]:
    """Within, nnU-Net's trainer builds `BlockNamingDataLoader`s. `get_dataloaders` has no hook and starts its
    workers before it returns, so the class it names is exchanged while it runs."""
    stock = trainer_module.nnUNetDataLoader
    trainer_module.nnUNetDataLoader = BlockNamingDataLoader
    try:
        yield
    finally:
        trainer_module.nnUNetDataLoader = stock


def loader_of(augmenter: Any) -> Any:
    """The data loader inside batchgenerators' single- or multi-threaded augmenter."""
    return augmenter.generator if hasattr(augmenter, "generator") else augmenter.data_loader


def probability_of_a_visit(blocks: int, draws: int) -> float:
    """P = 1-(1-1/S)^D, with S slices or blocks and D draws per epoch: nnU-Net draws with replacement, so a slice is
    seen in a share P of the epochs only."""
    return 1 - (1 - 1 / blocks) ** draws
