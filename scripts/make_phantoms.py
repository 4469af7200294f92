"""Write a small synthetic heart data set in the raw layout of nnU-Net.

Every case is a short stack of cardiac-like slices that is drawn, not measured: a bright chamber (blood pool) in a
darker muscular wall, a neighbouring crescent, vessels and blobs as bright as the chamber, lung, chest wall and ribs,
then texture, a smooth bias field and Rician noise.  The chamber can be told from its surroundings in two ways:

* by size, shape and a low-frequency contrast of roughly one standard deviation of the slice, which small noise
  cannot hide, and
* by a faint fine-grained texture that its bright neighbours lack, which small noise hides easily.

A network that is trained in the ordinary way learns to lean on the second cue too, so adversarial noise breaks it,
although the anatomy stays plain to see; a hardened network can fall back on the first.

The same seed, number of cases and library versions give the same files byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from phantoms import Image, Labels, Phantoms, Volume, cover, grain, paint, polar, rician
from scipy.ndimage import zoom

SIDE = 64  # in-plane size in voxels
SLICES = (8, 10)  # smallest and largest number of slices per case
CHAMBER, WALL = 1, 2

# Mean intensities in scanner units.
AIR, LUNG, TISSUE, MUSCLE, FAT, BLOOD, BONE = 25.0, 110.0, 225.0, 160.0, 310.0, 280.0, 120.0
BLOTCH_SD = 14.0  # coarse texture of every tissue
STRIPES = 13.0  # amplitude of the fine stripes that mark chamber and wall
NOISE_SD = 6.0  # of each of the two Gaussian channels behind the Rician noise


@dataclass(frozen=True)
class Heart:
    """Shape of one heart; lengths in voxels, angles in radians, `t` runs from 0 (base) to 1 (apex)."""

    centre: tuple[float, float]
    drift: tuple[float, float]  # shift of the centre from base to apex
    radius: float  # mean chamber radius at the base
    taper: float  # share of the radius that is lost at the apex
    wall: float  # wall thickness
    waves: Image  # (2 ends, harmonics 2 to 4, cos and sin), relative amplitudes
    dips: Image  # (dips, 3): angle, relative depth, angular width of the papillary indentations
    crescent: float  # direction in which the neighbouring crescent lies
    stripes: float  # direction across the fine stripes in the chamber


def draw_heart(rng: np.random.Generator) -> Heart:
    """Draw a random heart near the middle of the slice."""
    waves = rng.normal(0.0, 1.0, (2, 3, 2)) * np.array([0.10, 0.05, 0.03])[None, :, None]
    first = rng.uniform(0.0, 2.0 * np.pi)
    angles = np.array([first, first + rng.uniform(1.3, 2.6)])
    dips = np.stack([angles, rng.uniform(0.15, 0.40, 2), rng.uniform(0.18, 0.32, 2)], axis=1)
    return Heart(
        centre=(SIDE * rng.uniform(0.42, 0.58), SIDE * rng.uniform(0.42, 0.58)),
        drift=(rng.normal(0.0, 2.0), rng.normal(0.0, 2.0)),
        radius=rng.uniform(8.5, 12.0),
        taper=rng.uniform(0.25, 0.45),
        wall=rng.uniform(3.5, 5.0),
        waves=waves,
        dips=dips,
        crescent=rng.uniform(0.0, 2.0 * np.pi),
        stripes=rng.uniform(0.0, np.pi),
    )


def outline(heart: Heart, t: float, theta: Image) -> tuple[Image, Image]:
    """Chamber radius with and without its papillary indentations, in voxels, at the angles `theta`."""
    waves = (1.0 - t) * heart.waves[0] + t * heart.waves[1]
    relative = np.ones_like(theta)
    for order, (cosine, sine) in enumerate(waves, start=2):
        relative += cosine * np.cos(order * theta) + sine * np.sin(order * theta)
    smooth = heart.radius * (1.0 - heart.taper * t**1.5) * relative
    indented = smooth.copy()
    strength = np.sin(np.pi * min(1.0, 0.25 + 0.75 * t))  # papillary muscles are largest at mid height
    for angle, depth, width in heart.dips:
        gap = np.angle(np.exp(1j * (theta - angle)))
        indented -= smooth * strength * depth * np.exp(-0.5 * (gap / width) ** 2)
    return smooth, indented


def draw_chest(rng: np.random.Generator, side: float) -> Image:
    """Air, fat, chest muscle, ribs and lung of one slice; `side` is the direction of the chest wall in radians."""
    reach = 70.0  # the chest is far larger than the field of view, so that only an arc of its wall shows
    middle = SIDE / 2.0
    offset = reach - rng.uniform(25.0, 27.0)
    radius, theta = polar((middle - offset * np.cos(side), middle - offset * np.sin(side)), SIDE)
    depth = reach - radius
    image = paint(np.full((SIDE, SIDE), AIR), cover(depth), FAT)
    image = paint(image, cover(depth - 3.0), MUSCLE)
    ribs = cover(1.3 - np.abs(depth - 5.5)) * (np.sin(26.0 * theta + rng.uniform(0.0, 6.28)) > 0.1)
    image = paint(image, ribs, BONE)
    return paint(image, cover(depth - 8.0), LUNG)


def draw_decoys(rng: np.random.Generator, image: Image, heart: Heart, blood: float) -> Image:
    """Add bright vessels and blobs around the heart, some as large as a small chamber."""
    for _ in range(int(rng.integers(3, 6))):
        angle, size = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(2.0, 6.0)
        away = heart.radius + heart.wall + size + rng.uniform(1.0, 8.0)
        centre = (heart.centre[0] + away * np.cos(angle), heart.centre[1] + away * np.sin(angle))
        radius, theta = polar(centre, SIDE)
        edge = size * (1.0 + rng.uniform(0.05, 0.25) * np.cos(2.0 * theta - rng.uniform(0.0, 6.28)))
        image = paint(image, cover(edge + 1.5 - radius), MUSCLE)
        image = paint(image, cover(edge - radius), blood * rng.uniform(0.85, 1.05))
    return image


def draw_slice(rng: np.random.Generator, heart: Heart, chest: Image, t: float, blood: float) -> tuple[Image, Labels]:
    """Draw one slice before bias field and noise; image and labels are (SIDE, SIDE)."""
    jitter = rng.normal(0.0, 0.3, 2)
    centre = (
        heart.centre[0] + heart.drift[0] * t + float(jitter[0]),
        heart.centre[1] + heart.drift[1] * t + float(jitter[1]),
    )
    radius, theta = polar(centre, SIDE)
    smooth, chamber = outline(heart, t, theta)
    outer = smooth + heart.wall
    image = paint(chest, cover(outer + 5.0 + 2.0 * np.cos(3.0 * theta + heart.crescent) - radius, 2.0), TISSUE)

    reach = heart.radius * 0.9 * (1.0 - 0.5 * t)
    away = heart.radius * (1.0 - heart.taper * t**1.5) + heart.wall + 0.35 * reach
    bulge = (centre[0] + away * np.cos(heart.crescent), centre[1] + away * np.sin(heart.crescent))
    image = paint(image, cover(1.25 * reach - polar(bulge, SIDE)[0]), 0.95 * blood)

    in_wall, in_chamber = cover(outer - radius), cover(chamber - radius)
    image = paint(paint(image, in_wall, MUSCLE), in_chamber, blood)
    parallel = np.cos(2.0 * np.pi / 3.4 * radius * np.cos(theta - heart.stripes) + rng.uniform(0.0, 6.28))
    layered = np.cos(2.0 * np.pi / 3.0 * (outer - radius))
    stripes = paint(paint(np.zeros_like(image), in_wall, layered), in_chamber, parallel)
    blotches = grain(rng, 1.8, SIDE) * np.clip(image / TISSUE, 0.2, 1.0)  # hardly any in air
    image = image + STRIPES * stripes + BLOTCH_SD * blotches
    labels = np.where(radius < chamber, CHAMBER, np.where(radius < outer, WALL, 0)).astype(np.uint8)
    return image, labels


def make_case(seed: int, index: int) -> tuple[Sequence[Volume], Labels]:
    """Make the volume and the labels of one case, both (SIDE, SIDE, slices); intensities are at least 1."""
    rng = np.random.default_rng([seed, index])  # independent of how many cases are made
    heart = draw_heart(rng)
    blood = BLOOD * rng.uniform(0.9, 1.1)
    chest = draw_decoys(rng, draw_chest(rng, rng.uniform(0.0, 2.0 * np.pi)), heart, blood)
    count = int(rng.integers(SLICES[0], SLICES[1] + 1))
    drawn = [draw_slice(rng, heart, chest, k / (count - 1), blood) for k in range(count)]
    clean = np.stack([image for image, _ in drawn], axis=-1)
    bias = np.exp(zoom(rng.normal(0.0, 0.12, (3, 3, 2)), np.array(clean.shape) / np.array([3, 3, 2]), order=1))
    clean = clean * bias * rng.uniform(0.8, 1.25)
    return [rician(rng, clean, NOISE_SD)], np.stack([labels for _, labels in drawn], axis=-1)


PHANTOMS = Phantoms(
    name="Dataset902_PhantomHeart",
    case="phantom",
    script="make_phantoms.py",
    what="Synthetic heart-like slices",
    channels=["MRI"],
    labels={"background": 0, "chamber": CHAMBER, "wall": WALL},
    make_case=make_case,
    seed=902,
    cases=24,
)

if __name__ == "__main__":
    PHANTOMS.main()
