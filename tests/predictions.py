"""Predictions of the same images by the same model, made by two programs."""

from pathlib import Path

import nibabel
import numpy as np

TURNED = 1e-4
"""Share of the pixels that may differ. nnU-Net adds tiles up in half precision, where two classes are often alike, and
the least rounding, as by another number of threads, turns a pixel."""


def assert_same_predictions(ours: Path, theirs: Path) -> None:
    """The label images of two folders agree in name and, but for `TURNED`, in every pixel."""
    names = sorted(file.name for file in theirs.glob("*.nii.gz"))
    assert names and names == sorted(file.name for file in ours.glob("*.nii.gz"))
    differing, pixels = 0, 0
    for name in names:
        a, b = (np.asarray(nibabel.load(folder / name).dataobj) for folder in (ours, theirs))
        differing, pixels = differing + np.count_nonzero(a != b), pixels + a.size
    assert differing <= TURNED * pixels, f"{differing} of {pixels} pixels differ"
