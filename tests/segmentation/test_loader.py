"""nnU-Net's loader with slice names, in another process and over label maps."""

import multiprocessing
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.blocks import Blocks, samples_of
from nnunet_ima.segmentation.loader import loader_of
from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA
from tests.conftest import Workspace
from tests.segmentation.spawn_worker import draw
from tests.segmentation.trainers import started

SHORT = {"noise_max": 60.0, "epochs": 2, "iterations": 2, "val_iterations": 1, "steps": 4}


def test_the_loader_works_in_a_spawned_process(in_process: Workspace) -> None:
    """nnU-Net's workers get the loader pickled there; the class must be found by its name."""
    trainer = started(in_process, nnUNetTrainerIMA, SHORT)
    loader = loader_of(trainer.dataloader_train)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        batch = pool.apply(draw, (pickle.dumps(loader),))
    assert batch["shape"][0] == len(batch["keys"]) == len(batch["blocks"]) == 4
    known = set(trainer.ima.store.ids)
    named = [(case, *number) for case, number in zip(batch["keys"], batch["blocks"], strict=True)]
    assert {case for case, _ in named} <= {case for case, _ in known}
    assert any(sample in known for sample in named)


SLICES = Blocks.of((4, 4))


class Cases:
    """A data set of given label maps, with images of zeros."""

    def __init__(self, **maps: NDArray[Any]) -> None:
        self.maps = maps
        self.identifiers = list(maps)

    def load_case(self, case: str) -> Any:
        return np.zeros(self.maps[case].shape, np.float32), self.maps[case], None, {}


def _map(*labels: int) -> NDArray[Any]:
    """One slice per label, which fills it."""
    return np.broadcast_to(np.array(labels)[None, :, None, None], (1, len(labels), 4, 4))


def test_only_labels_of_a_class_are_foreground() -> None:
    """-1 is outside of the image, 4 the ignore label, 9 a label of no class or region."""
    labels = SimpleNamespace(foreground_labels=[1, 2, 3])
    found, total = samples_of(Cases(b=_map(0, 3), a=_map(-1, 1, 4, 9, 2)), labels, SLICES)
    assert found == [("a", 1), ("a", 4), ("b", 1)] and total == 7


def test_a_case_that_is_not_finite_is_named() -> None:
    class Spoiled(Cases):
        def load_case(self, case: str) -> Any:
            data, *others = super().load_case(case)
            return data + (np.inf if case == "b" else 0.0), *others

    with pytest.raises(UserError, match=r"^Case b has intensities that are not finite"):
        samples_of(Spoiled(a=_map(1), b=_map(1)), SimpleNamespace(foreground_labels=[1]), SLICES)
