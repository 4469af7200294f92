"""The generator of `data_examples`."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np

from tests.conftest import DATASET, EXAMPLES

GENERATOR = Path(__file__).parents[1] / "scripts" / "make_phantoms.py"


def _generate(folder: Path) -> dict[str, bytes]:
    subprocess.run([sys.executable, GENERATOR, "--output", str(folder), "--cases", "2"], check=True)
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first = _generate(tmp_path / "first")
    assert first == _generate(tmp_path / "second")
    assert len(first) == 5


def test_examples_are_small_and_in_nnunets_layout() -> None:
    folder = EXAMPLES / DATASET
    content = json.loads((folder / "dataset.json").read_text())
    images, labels = sorted((folder / "imagesTr").iterdir()), sorted((folder / "labelsTr").iterdir())
    assert len(images) == len(labels) == content["numTraining"]
    assert sum(file.stat().st_size for file in EXAMPLES.rglob("*") if file.is_file()) < 3_000_000
    for image, label in zip(images, labels, strict=True):
        assert image.name == label.name.replace(".nii.gz", "_0000.nii.gz")
        reference = np.asarray(nibabel.load(label).dataobj)
        assert reference.shape == nibabel.load(image).shape
        assert set(np.unique(reference)) == {0, 1, 2}
