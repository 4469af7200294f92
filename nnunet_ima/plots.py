"""Figures in one plain style, written as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ima.files import replacing


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
