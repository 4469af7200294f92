"""The 2D slices of preprocessed cases, whole: which of them count, read when they are needed."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.cases.padding import pad

SliceChoice = Literal["complete", "foreground", "all"]
SLICE_CHOICES: tuple[SliceChoice, ...] = get_args(SliceChoice)
PLURALS = {"slice": "slices", "volume": "volumes", "patch": "patches"}
"""Of what is attacked at once, by its name in the singular (`Slices.unit`)."""


class Placed(Protocol):
    """Case of a slice, its number there, the shape (C, H, W) of its image, and what it is called (see `PLURALS`)."""

    @property
    def case(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def unit(self) -> str: ...


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True)
class Place:
    """Where a slice is."""

    case: str
    number: int
    shape: tuple[int, ...]
    unit: str = "slice"


@dataclass(frozen=True)
class Slice:
    """A slice, a volume (`Volumes`) or a patch of it (`Patches`).

    image: (C, H, W) or (C, Z, H, W) float32, normalised; reference: as `SegmentationObjective` takes it, without the
    batch dimension, -1 (label maps) or ignored (regions) where padded."""

    case: str
    number: int
    image: Tensor
    reference: Tensor
    unit: str = "slice"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.image.shape)


def held_out_cases(preprocessed: Path, data_identifier: str, fold: str) -> list[str]:
    """The cases that nnU-Net holds out for this fold, sorted, by its own `do_split` (for fold `all`: every case)."""
    return _split(preprocessed, data_identifier, fold)[1]


def check_unseen(preprocessed: Path, data_identifier: str, folds: Sequence[str], names: Sequence[str]) -> None:
    """UserError where one of the folds was trained on a case of this name."""
    for fold in folds:
        known = seen_cases(preprocessed, data_identifier, fold, names)
        if known:
            raise UserError(
                f"--ensemble: fold {fold} was trained on {', '.join(known[:3])}{', ...' if known[3:] else ''}; an "
                "ensemble needs cases that none of its folds has seen, give others with -i and -gt."
            )


def seen_cases(preprocessed: Path, data_identifier: str, fold: str, names: Sequence[str]) -> list[str]:
    """Those of the names that the fold is trained on, sorted."""
    return sorted(set(names) & set(_split(preprocessed, data_identifier, fold)[0]))


def _split(preprocessed: Path, data_identifier: str, fold: str) -> tuple[list[str], list[str]]:
    """The cases that the fold is trained on, and those it holds out, sorted."""
    folder = preprocessed / data_identifier
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: run nnUNetv2_plan_and_preprocess for this data set.")
    # do_split reads these attributes only; a real trainer would create a results folder and a log.
    trainer = SimpleNamespace(
        dataset_class=infer_dataset_class(str(folder)),
        fold=fold if fold == "all" else int(fold),
        preprocessed_dataset_folder=str(folder),
        preprocessed_dataset_folder_base=str(preprocessed),
        folder_with_segs_from_previous_stage=None,
        print_to_log_file=lambda *args, **kwargs: None,
    )
    trained_on, held_out = nnUNetTrainer.do_split(trainer)
    return sorted(trained_on), sorted(held_out)


def choose_cases(held_out: list[str], wanted: str) -> list[str]:
    """`heldout`, the paper's `validation` (their first third, sorted by name) or `test` (the rest), or names
    separated by commas. UserError for a name that is not held out: the model may have been trained on it."""
    third = len(held_out) // 3
    parts = {"heldout": held_out, "validation": held_out[:third], "test": held_out[third:]}
    if wanted in parts:
        return parts[wanted]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = [name for name in names if name not in held_out]
    if unknown or not names:
        raise UserError(
            f"--cases must be heldout, validation, test or held-out cases of the fold such as {held_out[0]}, "
            f"got {', '.join(unknown) or repr(wanted)}."
        )
    return sorted(set(names))


class Slices:
    """The slices that count of some cases. What is kept is where they are; they are read when they are needed.

    places: of the slices, case by case; digest: differs where a slice, its intensities or its reference differ.
    """

    unit = "slice"

    def __init__(
        self, predictor: Any, dataset: Any, cases: Sequence[str], choice: SliceChoice, padded: bool = False
    ) -> None:
        """Reads every case once; UserError for intensities that are not finite.

        dataset: nnU-Net's, or whatever else has its `load_case`.
        choice: `complete`, those whose reference holds all foreground classes that occur in their case (the authors'
            rule); `foreground`, those with any; `all`.
        padded: to at least the patch, so that noise is put on the padding, too.
        """
        self._labels, self._dataset = predictor.label_manager, dataset
        self._patch_size = tuple(predictor.configuration_manager.patch_size)
        self._patch = self._patch_size if padded else (1,) * len(self._patch_size)
        self.places: list[Place] = []
        found = hashlib.sha256()
        for case in cases:
            data, segmentation = self._load(case)
            if not np.isfinite(data).all():
                raise UserError(
                    f"Case {case} has intensities that are not finite: repair the image and preprocess again."
                )
            for number in self._numbers(segmentation[0], choice):
                item = self._slice(case, number, data, segmentation)
                self.places.append(Place(case, number, item.shape, self.unit))
                found.update(f"{case} {number} {item.shape}".encode())
                found.update(item.image.numpy().tobytes())
                found.update(item.reference.numpy().tobytes())
        self.digest = found.hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, places: Sequence[Place]) -> list[Slice]:
        """These slices, each with memory of its own; neighbours of one case are read together."""
        found = []
        for case, own in groupby(places, key=lambda place: place.case):
            data, segmentation = self._load(case)
            found += [self._slice(case, place.number, data, segmentation) for place in own]
        return found

    def _numbers(self, reference: NDArray[Any], choice: SliceChoice) -> list[int]:
        return qualifying(reference, self._labels.ignore_label, choice)

    def _part(self, array: NDArray[Any], number: int) -> NDArray[Any]:
        """A sample's share of the case's (C, Z, H, W)."""
        return array[:, number]

    def own_shape(self, place: Place) -> tuple[int, ...]:
        """(H, W) of a slice without padding."""
        return tuple(self._load(place.case)[0].shape[2:]) if max(self._patch) > 1 else place.shape[1:]

    def _load(self, case: str) -> tuple[NDArray[Any], NDArray[Any]]:
        data, segmentation = self._dataset.load_case(case)[:2]
        return np.asarray(data[:]), np.asarray(segmentation[:])

    def _slice(self, case: str, number: int, data: NDArray[Any], segmentation: NDArray[Any]) -> Slice:
        # Copies: a view would keep the whole case in memory.
        image = torch.from_numpy(self._part(data, number).astype(np.float32))
        reference = torch.from_numpy(np.maximum(self._part(segmentation[:1], number), 0).astype(np.int16))
        reference = _reference(pad(reference, self._patch, -1), self._labels)
        return Slice(case, number, pad(image, self._patch), reference, self.unit)


def qualifying(reference: NDArray[Any], ignore_label: int | None, choice: SliceChoice) -> list[int]:
    """The slices of a case that count; reference: (Z, H, W)."""
    classes = [label for label in np.unique(reference) if label > 0 and label != ignore_label]
    if choice == "all":
        return list(range(len(reference)))
    present = np.stack([(reference == label).any((1, 2)) for label in classes], 1) if classes else None
    if present is None:
        return []
    kept = present.all(1) if choice == "complete" else present.any(1)
    return [int(number) for number in np.flatnonzero(kept)]


def _reference(labels_map: Tensor, labels: Any) -> Tensor:
    """(1, H, W) label map -> the same, or one channel per region and the ignore mask as the last."""
    if not labels.has_regions:
        return labels_map
    regions = [
        torch.isin(labels_map, torch.tensor([region] if np.isscalar(region) else list(region)).to(labels_map))
        for region in labels.foreground_regions
    ]
    outside = labels_map < 0
    ignored = outside if labels.ignore_label is None else outside | (labels_map == labels.ignore_label)
    return torch.cat([*regions, ignored])


def batches(slices: Iterable[P], size: int) -> list[list[P]]:
    """Batches of up to `size` slices of equal shape, from any case; a case's slices are in a row."""
    ordered = sorted(slices, key=lambda item: (item.shape, item.case, item.number))
    return [
        group[start : start + size]
        for group in (list(items) for _, items in groupby(ordered, key=lambda item: item.shape))
        for start in range(0, len(group), size)
    ]
