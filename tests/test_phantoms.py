"""The generators of `data_examples`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.conftest import DATASET, EXAMPLES

SCRIPTS = Path(__file__).parents[1] / "scripts"
LESIONS = "Dataset903_PhantomLesion"
GENERATORS = {DATASET: "make_phantoms.py", LESIONS: "make_lesion_phantoms.py"}
LABELS = {DATASET: {0, 1, 2}, LESIONS: {0, 1, 2, 3, 4}}


def _generate(generator: str, folder: Path) -> dict[str, bytes]:
    subprocess.run([sys.executable, SCRIPTS / generator, "--output", str(folder), "--cases", "2"], check=True)
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _dataset_json(dataset: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EXAMPLES / dataset / "dataset.json").read_text())
    return content


@pytest.mark.parametrize("dataset", GENERATORS)
def test_the_same_seed_gives_the_same_files(dataset: str, tmp_path: Path) -> None:
    first = _generate(GENERATORS[dataset], tmp_path / "first")
    assert first == _generate(GENERATORS[dataset], tmp_path / "second")
    assert len(first) == 1 + 2 * (1 + len(_dataset_json(dataset)["channel_names"]))


@pytest.mark.parametrize("dataset", GENERATORS)
def test_examples_are_in_nnunets_layout_and_show_all_labels(dataset: str) -> None:
    folder, content = EXAMPLES / dataset, _dataset_json(dataset)
    references = sorted((folder / "labelsTr").iterdir())
    assert len(references) == content["numTraining"]
    found = set()
    for reference in references:
        labels = np.asarray(nibabel.load(reference).dataobj)
        found |= set(np.unique(labels))
        for channel in content["channel_names"]:
            name = reference.name.replace(".nii.gz", f"_{int(channel):04d}.nii.gz")
            assert nibabel.load(folder / "imagesTr" / name).shape == labels.shape
    assert found == LABELS[dataset]


def test_examples_are_small() -> None:
    assert sum(file.stat().st_size for file in EXAMPLES.rglob("*") if file.is_file()) < 3_000_000


def test_each_lesion_lies_within_the_next() -> None:
    """Regions are nested: every part that is not ignored has its neighbours inside the next larger region."""
    parts = _dataset_json(LESIONS)["labels"]
    whole, inner, rim = (set(np.atleast_1d(parts[name])) for name in ("whole lesion", "core and rim", "rim"))
    assert rim < inner < whole


def test_some_slices_are_not_annotated_at_all() -> None:
    ignore = _dataset_json(LESIONS)["labels"]["ignore"]
    maps = [np.asarray(nibabel.load(file).dataobj) for file in (EXAMPLES / LESIONS / "labelsTr").iterdir()]
    assert any((labels == ignore).all((0, 1)).any() for labels in maps)
    assert sum((labels == ignore).any() for labels in maps) > len(maps) / 2
