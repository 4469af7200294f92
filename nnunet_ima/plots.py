"""Figures in one plain style, written as a whole."""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ima.files import replacing

FORMATS = ("png", "svg")


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> str:
    """A figure as base64, for an HTML file that needs nothing beside it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def save(figure: Any, folder: Path, name: str) -> None:
    """`folder`/`name`.png and .svg."""
    for suffix in FORMATS:
        with replacing(folder / f"{name}.{suffix}") as path:
            figure.savefig(path, dpi=110)


@contextmanager
def two_panels(path: Path, **sharing: Any) -> Iterator[Any]:
    """The two axes of a figure that is saved to `path` at the end.

    In matplotlib's own style: nnU-Net's logger sets a global one with letters three times as large.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(11, 4), layout="constrained")
        yield figure.subplots(1, 2, **sharing)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=100)


def append_below(path: Path, draw: Callable[[Any], None], height: float) -> None:
    """Add a panel under the picture at `path`, as wide as it is and so many inches (at 100 dpi) high.

    draw: draws on the axes it is given, in the style that is set.
    """
    from PIL import Image

    above = Image.open(path).convert("RGB")
    figure = new_figure(above.width / 100, height)
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    panel = Image.open(buffer).convert("RGB")
    whole = Image.new("RGB", (above.width, above.height + panel.height), "white")
    whole.paste(above, (0, 0))
    whole.paste(panel, (0, above.height))
    with replacing(path) as temporary:
        whole.save(temporary)
