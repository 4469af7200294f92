"""Write a small synthetic lesion data set with two channels, nested regions and an ignore label, in nnU-Net's layout.

Every case is a short stack of drawn head-like slices. Each lesion has three parts, one inside the other, that no single
channel tells apart: oedema is bright in channel 1 only, the core is dark in channel 0, and its rim is bright in channel
0. As in the hearts of `make_phantoms.py`, size and contrast tell a lesion from the vessels around it, and so does a
faint fine texture that small noise hides. Patches that nobody annotated carry the ignore label, in some cases a whole
slice.

The same seed, number of cases and library versions give the same files byte for byte.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from make_phantoms import Image, Labels, cover, grain, paint, write_nifti
from numpy.typing import NDArray

DATASET_NAME = "Dataset903_PhantomLesion"
SIDE = 56
SLICES = (6, 8)
OEDEMA, CORE, RIM, IGNORE = 1, 2, 3, 4
LABELS = {
    "background": 0,
    "whole lesion": [OEDEMA, CORE, RIM],
    "core and rim": [CORE, RIM],
    "rim": RIM,
    "ignore": IGNORE,
}
# Mean intensities of the two channels.
AIR, SKULL, TISSUE, FLUID, VESSEL = (12.0, 12.0), (90.0, 60.0), (200.0, 180.0), (90.0, 110.0), (290.0, 190.0)
PARTS = {OEDEMA: (190.0, 265.0), CORE: (130.0, 215.0), RIM: (285.0, 230.0)}
STRIPES, BLOTCH_SD, NOISE_SD = 11.0, 12.0, 6.0


def polar(centre: tuple[float, float]) -> tuple[Image, Image]:
    """Distance in voxels and angle in radians of every pixel from `centre`; both (SIDE, SIDE)."""
    x, y = np.meshgrid(np.arange(SIDE) - centre[0], np.arange(SIDE) - centre[1], indexing="ij")
    return np.hypot(x, y), np.arctan2(y, x)


def lay(image: NDArray[np.float64], opacity: Image, values: tuple[float, float]) -> NDArray[np.float64]:
    """Lay a tissue over both channels of `image` (2, SIDE, SIDE)."""
    return np.stack([paint(channel, opacity, value) for channel, value in zip(image, values, strict=True)])


def draw_head(rng: np.random.Generator) -> NDArray[np.float64]:
    """Air, skull, tissue, ventricles and vessels, (2, SIDE, SIDE)."""
    radius, theta = polar((SIDE / 2, SIDE / 2))
    outline = 25.0 * (1 + 0.05 * np.cos(2 * theta - rng.uniform(0, 6.28)))
    image = lay(np.ones((2, SIDE, SIDE)), np.ones((SIDE, SIDE)), AIR)
    image = lay(image, cover(outline - radius), SKULL)
    image = lay(image, cover(outline - 2.5 - radius), TISSUE)
    for side in (-1, 1):
        distance, _ = polar((SIDE / 2 + 4.0 * side, SIDE / 2))
        image = lay(image, cover(rng.uniform(2.5, 3.5) - distance), FLUID)
    for _ in range(int(rng.integers(3, 6))):
        angle, away = rng.uniform(0, 6.28), rng.uniform(8, 19)
        distance, _ = polar((SIDE / 2 + away * np.cos(angle), SIDE / 2 + away * np.sin(angle)))
        image = lay(image, cover(rng.uniform(1.0, 2.2) - distance), VESSEL)
    return image


def draw_lesion(
    rng: np.random.Generator, image: NDArray[np.float64], centre: tuple[float, float], size: float, wave: float
) -> tuple[NDArray[np.float64], Labels]:
    """A lesion of radius `size` over `image`; the image and its label map (SIDE, SIDE)."""
    radius, theta = polar(centre)
    edge = size * (1 + 0.15 * np.cos(3 * theta - wave))
    inner = {OEDEMA: edge, RIM: 0.68 * edge, CORE: 0.40 * edge}
    labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for label, limit in inner.items():
        image = lay(image, cover(limit - radius), PARTS[label])
        labels[radius < limit] = label
    stripes = np.cos(2 * np.pi / 3.2 * radius * np.cos(theta - wave) + rng.uniform(0, 6.28))
    return image + STRIPES * stripes * cover(edge - radius), labels


def make_case(seed: int, index: int) -> tuple[list[NDArray[np.int16]], Labels]:
    """Two channels and the labels of one case, each (SIDE, SIDE, slices); intensities are at least 1."""
    rng = np.random.default_rng([seed, index])
    count = int(rng.integers(SLICES[0], SLICES[1] + 1))
    head = draw_head(rng)
    angle, away = rng.uniform(0, 6.28), rng.uniform(9, 13)
    centre = (SIDE / 2 + away * np.cos(angle), SIDE / 2 + away * np.sin(angle))
    largest, wave = rng.uniform(8.0, 10.5), rng.uniform(0, 6.28)
    images, maps = [], []
    for number in range(count):
        # The outermost slices show no lesion.
        share = np.sin(np.pi * number / (count - 1))
        image, labels = head, np.zeros((SIDE, SIDE), dtype=np.uint8)
        if share > 0.2:
            image, labels = draw_lesion(rng, head, centre, largest * (0.55 + 0.45 * share), wave)
        blotches = np.stack([BLOTCH_SD * grain(rng, 1.8, SIDE) for _ in range(2)])
        images.append(image + blotches)
        maps.append(labels)
    labels = leave_unannotated(rng, np.stack(maps, axis=-1), whole_slice=index % 3 == 0)
    clean = np.stack(images, axis=-1) * rng.uniform(0.8, 1.25)
    noise = rng.normal(0.0, NOISE_SD, (2, *clean.shape))
    magnitude = np.hypot(clean + noise[0], noise[1])
    # nnU-Net crops away voxels that are exactly zero; there shall be none.
    return list(np.clip(np.rint(magnitude), 1, 2000).astype(np.int16)), labels


def leave_unannotated(rng: np.random.Generator, labels: Labels, whole_slice: bool) -> Labels:
    """The ignore label on a rectangle of some slices, and on one whole slice if asked for."""
    labels = labels.copy()
    for number in range(labels.shape[2]):
        if rng.uniform() < 0.4:
            top, left = rng.integers(4, SIDE - 24, 2)
            labels[top : top + 16, left : left + 20, number] = IGNORE
    if whole_slice:
        labels[:, :, int(rng.integers(0, labels.shape[2]))] = IGNORE
    return labels


def write_dataset(output: Path, seed: int, cases: int) -> None:
    """Write images, labels and dataset.json into `output`, which is made if need be."""
    for folder in ("imagesTr", "labelsTr"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for index in range(cases):
        channels, labels = make_case(seed, index)
        for number, volume in enumerate(channels):
            write_nifti(output / "imagesTr" / f"lesion_{index:03d}_{number:04d}.nii.gz", volume)
        write_nifti(output / "labelsTr" / f"lesion_{index:03d}.nii.gz", labels)
    description = {
        "name": DATASET_NAME.split("_", 1)[1],
        "description": f"Synthetic lesions, scripts/make_lesion_phantoms.py --seed {seed} --cases {cases}; "
        "generated, no patient data",
        "licence": "CC0-1.0",
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": LABELS,
        "regions_class_order": [OEDEMA, CORE, RIM],
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (output / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="ascii")


def main() -> None:
    """Parse the command line and write the data set."""
    parser = argparse.ArgumentParser(
        description="Write synthetic lesions: two channels, three nested regions, an ignore label.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Path(__file__).resolve().parent.parent / "data_examples" / DATASET_NAME
    parser.add_argument("--output", type=Path, default=default, help="folder to write; existing cases are replaced")
    parser.add_argument("--seed", type=int, default=903, help="non-negative seed; the same seed gives the same files")
    parser.add_argument("--cases", type=int, default=10, help="number of cases, 1 to 999")
    arguments = parser.parse_args()
    if arguments.seed < 0 or not 1 <= arguments.cases <= 999:
        parser.error("--seed must not be negative and --cases must lie between 1 and 999")
    write_dataset(arguments.output, arguments.seed, arguments.cases)
    print(f"wrote {arguments.cases} cases to {arguments.output}")


if __name__ == "__main__":
    main()
