"""Slices as images that a page can hold: grey values as a data URI, masks as outlines in SVG."""

import base64
import io
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

LONGEST = 384
"""Pixels of the longer side in the page; larger slices are made smaller."""
LOSSLESS = 128 * 128
QUALITY = 80


def picture(values: NDArray[np.float32], low: float, high: float) -> str:
    """Grey values (H, W) within a window as a WebP data URI; without loss where the slice is small."""
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    image = Image.fromarray((255 * grey).round().astype(np.uint8))
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=values.size <= LOSSLESS, quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def outline(masks: NDArray[np.bool_]) -> str:
    """The outlines of masks (classes, H, W) as the `d` of an SVG path, in pixels; empty where there is nothing."""
    return "".join(_path(line) for mask in masks for line in _lines(mask))


def _lines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """A frame of background closes the outlines at the edges."""
    if not mask.any():
        return []
    lines: Any = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    return [line - 0.5 for line in lines]


def _path(line: NDArray[np.float64]) -> str:
    """One decimal is half a screen pixel."""
    return "M" + " ".join(f"{x:.1f},{y:.1f}".replace(".0", "") for x, y in line) + "Z"
