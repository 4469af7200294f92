"""Write a small synthetic lesion data set with two channels, nested regions and an ignore label, in nnU-Net's layout.

Every case is a short stack of drawn head-like slices. Each lesion has three parts, one inside the other, that no single
channel tells apart: oedema is bright in channel 1 only, the core is dark in channel 0, and its rim is bright in channel
0. As in the hearts of `make_phantoms.py`, size and contrast tell a lesion from the vessels around it, and so does a
faint fine texture that small noise hides. Patches that nobody annotated carry the ignore label, in some cases a whole
slice.

The same seed, number of cases and library versions give the same files byte for byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from phantoms import Image, Labels, Phantoms, Volume, cover, grain, paint, polar, rician

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


def lay(image: NDArray[np.float64], opacity: Image, values: tuple[float, float]) -> NDArray[np.float64]:
    """Lay a tissue over both channels of `image` (2, SIDE, SIDE)."""
    return np.stack([paint(channel, opacity, value) for channel, value in zip(image, values, strict=True)])


def draw_head(rng: np.random.Generator) -> NDArray[np.float64]:
    """Air, skull, tissue, ventricles and vessels, (2, SIDE, SIDE)."""
    radius, theta = polar((SIDE / 2, SIDE / 2), SIDE)
    outline = 25.0 * (1 + 0.05 * np.cos(2 * theta - rng.uniform(0, 6.28)))
    image = lay(np.ones((2, SIDE, SIDE)), np.ones((SIDE, SIDE)), AIR)
    image = lay(image, cover(outline - radius), SKULL)
    image = lay(image, cover(outline - 2.5 - radius), TISSUE)
    for side in (-1, 1):
        distance, _ = polar((SIDE / 2 + 4.0 * side, SIDE / 2), SIDE)
        image = lay(image, cover(rng.uniform(2.5, 3.5) - distance), FLUID)
    for _ in range(int(rng.integers(3, 6))):
        angle, away = rng.uniform(0, 6.28), rng.uniform(8, 19)
        distance, _ = polar((SIDE / 2 + away * np.cos(angle), SIDE / 2 + away * np.sin(angle)), SIDE)
        image = lay(image, cover(rng.uniform(1.0, 2.2) - distance), VESSEL)
    return image


def draw_lesion(
    rng: np.random.Generator, image: NDArray[np.float64], centre: tuple[float, float], size: float, wave: float
) -> tuple[NDArray[np.float64], Labels]:
    """A lesion of radius `size` over `image`; the image and its label map (SIDE, SIDE)."""
    radius, theta = polar(centre, SIDE)
    edge = size * (1 + 0.15 * np.cos(3 * theta - wave))
    inner = {OEDEMA: edge, RIM: 0.68 * edge, CORE: 0.40 * edge}
    labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for label, limit in inner.items():
        image = lay(image, cover(limit - radius), PARTS[label])
        labels[radius < limit] = label
    stripes = np.cos(2 * np.pi / 3.2 * radius * np.cos(theta - wave) + rng.uniform(0, 6.28))
    return image + STRIPES * stripes * cover(edge - radius), labels


def make_case(seed: int, index: int) -> tuple[list[Volume], Labels]:
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
    return list(rician(rng, clean, NOISE_SD)), labels


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


PHANTOMS = Phantoms(
    name="Dataset903_PhantomLesion",
    case="lesion",
    script="make_lesion_phantoms.py",
    what="Synthetic lesions",
    channels=["T1", "FLAIR"],
    labels=LABELS,
    make_case=make_case,
    seed=903,
    cases=10,
    extra={"regions_class_order": [OEDEMA, CORE, RIM]},
)

if __name__ == "__main__":
    PHANTOMS.main()
