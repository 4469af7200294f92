"""Writes the generated pages of the reference: commands from their parsers, settings from the methods themselves.

`scripts/docs` runs it, and a test compares: neither page can drift from the code.
"""

import argparse
import inspect
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from griffe_prose import prose

from nnunet_ima.classification.settings import Settings as ClassifierSettings
from nnunet_ima.cli import check_predictions, classify, eval, export, ladder, plan, setup, soup
from nnunet_ima.methods.method import Method
from nnunet_ima.methods.registry import methods
from nnunet_ima.segmentation.settings import Settings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PARSERS = (plan, eval, check_predictions, soup, ladder, export, classify, setup)


def commands() -> str:
    """`reference/commands.md`."""
    lines = [
        "# Commands",
        "",
        "Generated from the parsers: what `--help` prints. Exit codes: 0 where all went well, 1 with one sentence for "
        "a mistake that you can put right, 2 for bad usage, 130 after Ctrl-C.",
        "",
    ]
    for module in PARSERS:
        lines += _command(module.parser())
    return _page(lines)


def _page(lines: Sequence[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from ("", f"## {parser.prog}", "", parser.description or "", "")
    subcommands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if subcommands:
        for inner in subcommands[0].choices.values():
            yield from _command(inner)
        return
    needed = " ".join(_flag(action) for action in parser._actions if action.required)
    yield from ("```text", f"{parser.prog} {needed} ...".replace("  ", " "), "```", "")
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if actions:
            title = "" if group.title in ("options", "positional arguments", "optional arguments") else group.title
            yield from (f"**{title}**", "") if title else ()
            yield from ("| flag | meaning |", "|---|---|")
            yield from (f"| `{_flag(action)}` | {_cell(_meaning(action))} |" for action in actions)
            yield ""


def _flag(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or action.dest
    if action.nargs == 0:
        return names
    value = action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{names} {value}"


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%").removeprefix("[OPTIONAL] ")
    return f"**required**; {text}" if action.required else text


def settings() -> str:
    """`reference/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Generated from the code. `nnunet-ima-plan` writes them into the plans, under the key `ima`; "
        "`nnunet-ima-classify train` keeps them beside its checkpoints. `--set METHOD.NAME=VALUE` changes a setting "
        "of a method.",
        "",
        "## Of a training in nnU-Net",
        "",
        *_documented(Settings),
        "## Of a classifier",
        "",
        *_documented(ClassifierSettings),
        "## Of the methods",
        "",
        "`noise` is the noise level, given by `--noise-max` or by the number in the trainer's name. `steps` are the "
        "gradient steps of the attack, each of the length `alpha` * noise level / `steps`; with `random_start` the "
        "attack starts at a random point of the ball instead of at the sample.",
        "",
    ]
    for word, method in methods().items():
        lines += [f"### {method.label}", "", f"Trainer `nnUNetTrainer{method.label}`, `--method {word}`.", ""]
        lines += [*_documented(method), ""]
    return _page(lines)


def _documented(kind: type[Any]) -> list[str]:
    text = [*prose(inspect.getdoc(kind) or "").splitlines(), ""]
    # Of a method, norm and bounds come from the training; `methods` are those of the sections below.
    given = ("norm", "bounds") if issubclass(kind, Method) else ("methods",)
    rows = [row for one in fields(kind) if one.name not in given for row in _row(one)]
    return [*text, "| setting | default | range |", "|---|---|---|", *rows, ""]


def _row(one: Field[Any]) -> Iterator[str]:
    default = one.default if one.default is not MISSING else "{}"
    low, high = one.metadata.get("low"), one.metadata.get("high")
    if get_origin(one.type) is Literal:
        allowed = ", ".join(f"`{choice}`" for choice in get_args(one.type))
    elif low is None or high is None:
        allowed = ""
    elif math.isinf(high):
        allowed = f"{low:g} or more"
    else:
        allowed = f"{low:g} to {high:g}"
    whole = ", whole" if one.metadata.get("whole") else ""
    text = f"{default:.4g}" if isinstance(default, float) else str(default)
    shown = "see above" if default is None else f"`{text}`"
    yield f"| `{one.name}` | {shown} | {allowed}{whole} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


PAGES = {"commands.md": commands, "settings.md": settings}

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
