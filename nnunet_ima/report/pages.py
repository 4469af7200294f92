"""Reports as HTML files, from the templates in `report/templates`."""

import math
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, select_autoescape

from nnunet_ima.plots import png
from nnunet_ima.report import charts


def new_environment() -> Environment:
    """Where the reports' templates are read from; what is filled in is escaped."""
    environment = Environment(
        loader=PackageLoader("nnunet_ima.report"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": png, "percent": _percent, "interval": _interval}
    environment.filters |= {"p_value": _p_value, "signed": _signed, "dice": _dice}
    environment.globals |= {"chart_size": (charts.WIDTH, charts.HEIGHT), "chart_height": charts.height}
    return environment


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _interval(limits: Sequence[float | None]) -> str:
    return "" if None in limits else f"{limits[0]:.1f} to {limits[1]:.1f}"


def _p_value(value: float | None) -> str:
    return "none" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float | None, digits: int = 1) -> str:
    return "none" if value is None else f"{value:+.{digits}f}"


def _dice(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}"
