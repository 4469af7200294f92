"""Patches that cover a case, by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ima.segmentation.cases.patches import Patches

LABELS = {"background": 0, "core": 1, "ignore": 2}


class Case:
    """One case; every voxel of its image has a value of its own."""

    def __init__(self, shape: tuple[int, ...], foreground: tuple[int, ...]) -> None:
        self.image = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
        self.reference = np.zeros((1, *shape), np.int16)
        where = (0, *foreground)
        self.reference[where] = 1

    def load_case(self, _: str) -> tuple[Any, Any]:
        return self.image, self.reference


def patches_of(case: Case, size: tuple[int, ...], choice: Any = "all") -> Patches:
    configuration = SimpleNamespace(patch_size=size)
    predictor = SimpleNamespace(label_manager=LabelManager(LABELS, None), configuration_manager=configuration)
    return Patches(predictor, case, ["one"], choice)


@pytest.mark.parametrize(
    ("shape", "size", "count"), [((4, 6, 8), (4, 3, 4), 4), ((5, 7, 9), (4, 3, 4), 18), ((3, 5, 4), (4, 3, 4), 2)]
)
def test_they_cover_the_case_and_are_no_larger_than_the_patch(
    shape: tuple[int, ...], size: tuple[int, ...], count: int
) -> None:
    case = Case(shape, (0, 0, 0))
    patches = patches_of(case, size)
    read = patches.read(patches.places)
    assert [place.number for place in patches.places] == list(range(count))
    assert {item.shape for item in read} == {(1, *np.minimum(shape, size))}
    assert {place.unit for place in patches.places} == {"patch"}
    seen = np.unique(np.concatenate([item.image.numpy().ravel() for item in read]))
    assert np.array_equal(seen, np.unique(case.image))


def test_only_those_with_foreground_count() -> None:
    case = Case((4, 6, 8), (1, 4, 6))
    patches = patches_of(case, (4, 3, 4), "complete")
    assert [place.number for place in patches.places] == [3]
    (item,) = patches.read(patches.places)
    assert item.reference.sum() == 1 and item.reference[0, 1, 1, 2] == 1
