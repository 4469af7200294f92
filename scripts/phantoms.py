"""What the generators of phantoms share: soft shapes to draw with, files in nnU-Net's raw layout, and `main`."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Image = NDArray[np.float64]
Labels = NDArray[np.uint8]
Volume = NDArray[np.int16]

SPACING_MM = (2.0, 2.0, 8.0)  # much coarser through the plane, so that nnU-Net slices along the last axis
EDGE = 0.6  # softness of drawn edges in voxels


def polar(centre: tuple[float, float], side: int) -> tuple[Image, Image]:
    """Distance in voxels and angle in radians of every pixel from `centre`; both (side, side)."""
    x, y = np.meshgrid(np.arange(side) - centre[0], np.arange(side) - centre[1], indexing="ij")
    return np.hypot(x, y), np.arctan2(y, x)


def cover(depth: Image, edge: float = EDGE) -> Image:
    """Turn a depth below an outline (voxels, positive inside) into an opacity from 0 to 1 with a soft edge."""
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-depth / (0.5 * edge), -40.0, 40.0))))


def paint(image: Image, opacity: Image, value: float | Image) -> Image:
    """Lay `value` over `image` where `opacity` (0 to 1) says so."""
    return image * (1.0 - opacity) + value * opacity


def grain(rng: np.random.Generator, sigma: float, side: int) -> Image:
    """Correlated Gaussian noise, (side, side), unit variance; `sigma` is its grain size in voxels."""
    noise = gaussian_filter(rng.normal(size=(side, side)), sigma, mode="wrap")
    return np.asarray(noise / noise.std())


def rician(rng: np.random.Generator, clean: Image, sd: float) -> Volume:
    """Scanner units with Rician noise, whole numbers from 1 to 2000: nnU-Net crops away voxels that are exactly 0."""
    noise = rng.normal(0.0, sd, (2, *clean.shape))
    magnitude = np.hypot(clean + noise[0], noise[1])
    return np.asarray(np.clip(np.rint(magnitude), 1, 2000), dtype=np.int16)


@dataclass(frozen=True)
class Phantoms:
    """A data set. name: as nnU-Net's folder; case: prefix of its cases; script, what: for its description;
    make_case: (seed, number) -> the volume of each channel and the labels, which do not depend on how many are made;
    seed, cases: defaults; extra: further entries of `dataset.json`."""

    name: str
    case: str
    script: str
    what: str
    channels: Sequence[str]
    labels: dict[str, Any]
    make_case: Callable[[int, int], tuple[Sequence[Volume], Labels]]
    seed: int
    cases: int
    extra: dict[str, Any] = field(default_factory=dict)

    def write(self, output: Path, seed: int, cases: int) -> None:
        """Write images, labels and dataset.json into `output`, which is made if need be."""
        for folder in ("imagesTr", "labelsTr"):
            (output / folder).mkdir(parents=True, exist_ok=True)
        for index in range(cases):
            volumes, labels = self.make_case(seed, index)
            for number, volume in enumerate(volumes):
                _write_nifti(output / "imagesTr" / f"{self.case}_{index:03d}_{number:04d}.nii.gz", volume)
            _write_nifti(output / "labelsTr" / f"{self.case}_{index:03d}.nii.gz", labels)
        description = {
            "name": self.name.split("_", 1)[1],
            "description": f"{self.what}, scripts/{self.script} --seed {seed} --cases {cases}; "
            "generated, no patient data",
            "licence": "CC0-1.0",
            "channel_names": {str(number): channel for number, channel in enumerate(self.channels)},
            "labels": self.labels,
            **self.extra,
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        (output / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="ascii")

    def main(self) -> None:
        """Parse the command line and write the data set."""
        parser = argparse.ArgumentParser(
            description=f"Write a data set of {self.what[0].lower()}{self.what[1:]} (nnU-Net's raw layout).",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        default = Path(__file__).resolve().parent.parent / "data_examples" / self.name
        parser.add_argument("--output", type=Path, default=default, help="folder to write; existing cases are replaced")
        parser.add_argument("--seed", type=int, default=self.seed, help="not negative; the same seed, the same files")
        parser.add_argument("--cases", type=int, default=self.cases, help="number of cases, 1 to 999")
        arguments = parser.parse_args()
        if arguments.seed < 0 or not 1 <= arguments.cases <= 999:
            parser.error("--seed must not be negative and --cases must lie between 1 and 999")
        self.write(arguments.output, arguments.seed, arguments.cases)
        print(f"wrote {arguments.cases} cases to {arguments.output}")


def _write_nifti(path: Path, volume: Volume | Labels) -> None:
    """Write a volume as gzipped NIfTI without a time stamp, so that equal volumes give equal files."""
    image = nib.Nifti1Image(volume, np.diag([*SPACING_MM, 1.0]))
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))
