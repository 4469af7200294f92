"""The real parser of each command, without running the command: it is caught where it is about to parse."""

import argparse
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import entry_points
from io import StringIO
from typing import Any
from unittest import mock

from tests.docs.pages import ROOT

SCRIPTS = ROOT / "scripts"


class Caught(BaseException):
    """Carries the parser out of a command; no Exception, for nothing on its way must take it for an error."""


def parser_started_by(start: Callable[[], Any]) -> argparse.ArgumentParser:
    """The first parser that `start` asks to parse."""

    def caught(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Caught(parser)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", caught),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]),
        redirect_stdout(StringIO()),
    ):
        try:
            start()
        except Caught as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise AssertionError(f"{start} parses nothing.")


@cache
def parser_of(command: str) -> argparse.ArgumentParser | None:
    """Of a console command of nnunet-ima or nnU-Net, or of `scripts/NAME.py`; None for one that there is not."""
    if command.endswith(".py"):
        script = ROOT / command
        return parser_started_by(lambda: runpy.run_path(str(script), run_name="__main__")) if script.is_file() else None
    found = list(entry_points(group="console_scripts", name=command))
    return parser_started_by(found[0].load()) if found else None


def with_subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from with_subcommands(sub)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every flag, those of subcommands included."""
    return {flag for one in with_subcommands(parser) for flag in one._option_string_actions}


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace | str:
    """What the words say, or the parser's complaint. Abbreviated flags are none."""
    complaint = StringIO()
    for one in with_subcommands(parser):
        one.allow_abbrev = False
    with redirect_stderr(complaint):
        try:
            return parser.parse_args(words)
        except SystemExit:
            return complaint.getvalue().strip().splitlines()[-1]
