"""The methods by name: the word of `--method` and of the plans, and the label in `nnUNetTrainer<label>`."""

import json
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from nnunet_ima.attacks.ball import Norm
from nnunet_ima.errors import UserError
from nnunet_ima.methods.amat import AMAT
from nnunet_ima.methods.ddn import DDN
from nnunet_ima.methods.edge import Edge
from nnunet_ima.methods.fat import FAT
from nnunet_ima.methods.gairat import GAIRAT
from nnunet_ima.methods.iaat import IAAT
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.mail import MAIL, MAILMART, MAILTRADES
from nnunet_ima.methods.mart import MART
from nnunet_ima.methods.method import Method, settings_of
from nnunet_ima.methods.mma import MMA
from nnunet_ima.methods.plain import Plain
from nnunet_ima.methods.smd import SMD
from nnunet_ima.methods.staircase import Staircase
from nnunet_ima.methods.trades import TRADES
from nnunet_ima.methods.vanilla import Vanilla

OWN: tuple[type[Method], ...] = (
    Plain,
    IMA,
    AMAT,
    Edge,
    Staircase,
    Vanilla,
    SMD,
    IAAT,
    MAIL,
    MAILTRADES,
    MAILMART,
    TRADES,
    MART,
    MMA,
    FAT,
    GAIRAT,
    DDN,
)
ENTRY_POINTS = "nnunet_ima.methods"
"""The group of entry points by which another package adds its methods."""

_methods: dict[str, type[Method]] = {method.word: method for method in OWN}


def register(method: type[Method]) -> type[Method]:
    """Make a method known by its word and label; a decorator for classes of one's own. ValueError for names taken."""
    for known in methods().values():
        if known is not method and {known.word, known.label} & {method.word, method.label}:
            raise ValueError(f"{method.word} or {method.label} is the name of a method already ({known.__module__}).")
    _methods[method.word] = method
    return method


@cache
def _load_plugins() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        method = entry.load()
        _methods.setdefault(method.word, method)


def methods() -> dict[str, type[Method]]:
    """All known methods by word, those of other packages (entry points) included."""
    _load_plugins()
    return dict(_methods)


def method_named(word: str) -> type[Method]:
    """UserError for an unknown word."""
    known = methods()
    if word not in known:
        raise UserError(f"There is no method {word!r}; known: {', '.join(known)}.")
    return known[word]


def build(
    method: type[Method],
    settings: dict[str, Any],
    noise: float | None,
    norm: Norm,
    bounds: tuple[float, float] | None = None,
) -> Method:
    """A method with these settings, and `noise` where it takes a noise level and the settings give none. UserError for
    a setting that it does not have, or a value that it does not take."""
    known = settings_of(method)
    strange = [name for name in settings if name not in known]
    if strange:
        raise UserError(f"{method.label} has no setting {strange[0]}; it has {', '.join(known)}.")
    level = {"noise": noise} if "noise" in known else {}
    return method(**{**level, **settings}, norm=norm, bounds=bounds)


def defaults(method: type[Method]) -> dict[str, Any]:
    """The settings of a method that have a value by default, as its paper has them."""
    usual = method()
    return {name: getattr(usual, name) for name in settings_of(method) if getattr(usual, name) is not None}


def parse_settings(texts: list[str]) -> dict[str, dict[str, Any]]:
    """`--set METHOD.NAME=VALUE` ... -> values by name by method. UserError for another form."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        word, dot, name = key.partition(".")
        if not (equals and dot and word and name and value):
            raise UserError(f"--set {text}: write METHOD.NAME=VALUE, for example trades.beta=1.")
        method_named(word)
        try:
            found.setdefault(word, {})[name] = json.loads(value)
        except json.JSONDecodeError:
            found.setdefault(word, {})[name] = value
    return found
