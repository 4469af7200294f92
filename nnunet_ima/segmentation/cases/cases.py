"""Where the cases of an evaluation come from: the fold's held-out ones, or any folder of raw images and references.

Both are read as nnU-Net's preprocessed data sets are: `load_case(case)` gives (data, segmentation, None, properties).
"""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.utils import (
    create_lists_from_splitted_dataset_folder,
    get_identifiers_from_splitted_dataset_folder,
)
from numpy.typing import NDArray

from nnunet_ima.errors import UserError, first_line
from nnunet_ima.segmentation.cases.intensities import raw_files


class Cases(Protocol):
    """names: of all cases; load_case: as nnU-Net's; images, reference: the raw files of a case, None where unknown."""

    names: list[str]

    def load_case(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]: ...

    def images(self, case: str) -> list[Path] | None: ...

    def reference(self, case: str) -> Path | None: ...


class _LastKept:
    """Keeps the last case that was loaded: whoever reads slices in order, or needs a case twice, loads it once."""

    _last: tuple[str, tuple[Any, Any, Any, dict[str, Any]]] | None = None

    def load_case(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Data (C, Z, H, W) and segmentation (1, Z, H, W) as arrays, not to be written to; None; properties."""
        if self._last is None or self._last[0] != case:
            # Two cases at once would be one too many.
            self._last = None
            self._last = case, self._loaded(case)
        return self._last[1]

    def _loaded(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        raise NotImplementedError


class PreprocessedCases(_LastKept):
    """Cases of nnU-Net's preprocessed folder `data`; their raw files are those of nnUNet_raw, if they are there."""

    def __init__(self, data: Path, names: Sequence[str], dataset_json: dict[str, Any]) -> None:
        self.names, self._data, self._json = list(names), data, dataset_json
        self._dataset = infer_dataset_class(str(data))(str(data), self.names)

    def _loaded(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        data, segmentation, _, properties = self._dataset.load_case(case)
        return np.asarray(data[:]), np.asarray(segmentation[:]), None, properties

    def images(self, case: str) -> list[Path] | None:
        return raw_files(self._data.parent.name, self._json, case)[0]

    def reference(self, case: str) -> Path | None:
        # nnU-Net keeps a copy of the references beside the preprocessed data: what its own validation compares with.
        file = self._data.parent / "gt_segmentations" / f"{case}{self._json['file_ending']}"
        return file if file.is_file() else None


def identifiers(images: Path, dataset_json: Path) -> list[str]:
    """The cases in a folder of raw images, by nnU-Net's own rule."""
    ending = json.loads(dataset_json.read_text())["file_ending"]
    return sorted(get_identifiers_from_splitted_dataset_folder(str(images), ending)) if images.is_dir() else []


class RawCases(_LastKept):
    """Raw images (`-i`, CASE_0000.nii.gz, ...) with references (`-gt`, CASE.nii.gz), preprocessed by nnU-Net itself.

    UserError, naming the case, where there are no images, or a reference is missing, has another shape than its
    images or labels the model does not know. references None: there are none, and every reference is empty.
    """

    def __init__(self, predictor: Any, images: Path, references: Path | None) -> None:
        self._predictor = predictor
        ending = predictor.dataset_json["file_ending"]
        for flag, folder in (("-i", images), ("-gt", references)):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{flag} {folder} is not a folder: name the one that holds the files.")
        self.names = sorted(get_identifiers_from_splitted_dataset_folder(str(images), ending))
        if not self.names:
            raise UserError(f"-i {images} holds no images named like CASE_0000{ending}: name the folder that does.")
        files = create_lists_from_splitted_dataset_folder(str(images), ending, self.names)
        self._images = {case: [Path(file) for file in found] for case, found in zip(self.names, files, strict=True)}
        self._references = {case: references / f"{case}{ending}" for case in self.names if references is not None}
        missing = [file.name for file in self._references.values() if not file.is_file()]
        if missing:
            raise UserError(
                f"-gt {references} has no references for {', '.join(missing)}: add them, or move the images."
            )
        wanted = len(predictor.dataset_json.get("channel_names", predictor.dataset_json.get("modality", {})))
        for case, found in self._images.items():
            if len(found) != wanted:
                raise UserError(f"-i {images}: case {case} has {len(found)} channels, the model takes {wanted}.")

    def _loaded(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        predictor = self._predictor
        self._check(case)
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        with redirect_stdout(StringIO()):
            data, segmentation, properties = preprocessor.run_case(
                [str(file) for file in self._images[case]],
                str(self._references[case]) if self._references else None,
                predictor.plans_manager,
                predictor.configuration_manager,
                predictor.dataset_json,
            )
        return data, segmentation, None, properties

    def _check(self, case: str) -> None:
        reader = self._predictor.plans_manager.image_reader_writer_class()
        images, reference = [str(file) for file in self._images[case]], self._references.get(case)
        try:
            image = reader.read_images(images)[0]
            labels = None if reference is None else reader.read_seg(str(reference))[0]
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            raise UserError(f"Case {case} cannot be read ({first_line(error)}): repair its files.") from error
        if reference is None or labels is None:
            return
        if image.shape[1:] != labels.shape[1:]:
            raise UserError(
                f"-gt {reference.name} has the shape {_shape(labels)}, its images {_shape(image)}: they do not belong "
                "together."
            )
        manager = self._predictor.label_manager
        known = {*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])}
        strange = sorted(set(np.unique(labels).tolist()) - {int(label) for label in known})
        if strange:
            raise UserError(
                f"-gt {reference.name} has the labels {', '.join(f'{label:g}' for label in strange)}, which the model "
                f"does not know (it has {', '.join(str(label) for label in sorted(known))}): convert them."
            )

    def images(self, case: str) -> list[Path] | None:
        return self._images[case]

    def reference(self, case: str) -> Path | None:
        return self._references.get(case)


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape[1:]))
