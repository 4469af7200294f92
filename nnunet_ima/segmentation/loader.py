"""nnU-Net's data loader, which also says which slice each sample is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module  # noqa: N813 (a module)
from tqdm import tqdm

from nnunet_ima.errors import UserError

SliceId = tuple[str, int]
"""(case key, index of the slice in the preprocessed case)."""


class SliceNamingDataLoader(nnUNetDataLoader):
    """Adds `slices` (int64, one per sample) to nnU-Net's batch; batches are otherwise exactly the same."""

    def get_bbox(self, *args: Any, **kwargs: Any) -> Any:
        """Called by nnU-Net once per sample; in a 2D configuration the first lower bound is the slice drawn."""
        lower, upper = super().get_bbox(*args, **kwargs)
        self._drawn_slices.append(int(lower[0]))
        return lower, upper

    def generate_train_batch(self) -> dict[str, Any]:
        self._drawn_slices: list[int] = []
        batch: dict[str, Any] = super().generate_train_batch()
        if len(self._drawn_slices) != len(batch["keys"]):
            raise RuntimeError(
                f"nnU-Net drew {len(self._drawn_slices)} slices for {len(batch['keys'])} samples: this version of "
                "nnunetv2 loads data in a way nnunet-ima does not know; use 2.8.x."
            )
        batch["slices"] = np.asarray(self._drawn_slices, dtype=np.int64)
        return batch


def slice_ids(batch: dict[str, Any]) -> list[SliceId]:
    """The (case, slice) of each sample of a batch of `SliceNamingDataLoader`."""
    return [(str(key), int(number)) for key, number in zip(batch["keys"], batch["slices"], strict=True)]


@contextmanager
def naming_slices() -> Iterator[None]:
    """Within, nnU-Net's trainer builds `SliceNamingDataLoader`s. `get_dataloaders` has no hook and starts its
    workers before it returns, so the class it names is exchanged while it runs."""
    stock = trainer_module.nnUNetDataLoader
    trainer_module.nnUNetDataLoader = SliceNamingDataLoader
    try:
        yield
    finally:
        trainer_module.nnUNetDataLoader = stock


def loader_of(augmenter: Any) -> Any:
    """The data loader inside batchgenerators' single- or multi-threaded augmenter."""
    return augmenter.generator if hasattr(augmenter, "generator") else augmenter.data_loader


def slices_of(dataset: Any, labels: Any, show_progress: bool = False) -> tuple[list[SliceId], int]:
    """Slices of an nnU-Net data set that have foreground, and how many slices there are in all.

    labels: nnU-Net's `LabelManager`; foreground is what belongs to one of its classes or regions.
    Reads every case once: UserError, naming it, for one whose intensities are not finite.
    """
    with_foreground: list[SliceId] = []
    total = 0
    for case in tqdm(sorted(dataset.identifiers), "IMA looks at the cases", disable=not show_progress, leave=False):
        data, segmentation = (np.asarray(array[:]) for array in dataset.load_case(case)[:2])
        if not np.isfinite(data).all():
            raise UserError(f"Case {case} has intensities that are not finite: repair the image and preprocess again.")
        total += len(segmentation[0])
        present = np.isin(segmentation[0], labels.foreground_labels).any((1, 2))
        with_foreground += [(case, int(number)) for number in np.flatnonzero(present)]
    return with_foreground, total


def intensity_range(dataset: Any, slices: Sequence[SliceId]) -> float:
    """How far the 0.5 and 99.5 percentiles of the preprocessed training slices lie apart."""
    wanted: dict[str, list[int]] = {}
    for case, number in slices:
        wanted.setdefault(case, []).append(number)
    parts = []
    for case, numbers in wanted.items():
        # Every 13th pixel is plenty for a percentile.
        parts.append(np.asarray(dataset.load_case(case)[0][:])[:, numbers].ravel()[::13])
    low, high = np.percentile(np.concatenate(parts), [0.5, 99.5])
    return float(high - low)


def probability_of_a_visit(slices: int, draws: int) -> float:
    """P = 1-(1-1/S)^D, with S slices and D draws per epoch: nnU-Net draws with replacement, so a slice is seen in a
    share P of the epochs only."""
    return 1 - (1 - 1 / slices) ** draws
