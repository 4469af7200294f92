"""What is wrong with a command that the documentation shows, without running it."""

import argparse
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_ima.errors import UserError
from nnunet_ima.methods.method import settings_of
from nnunet_ima.methods.registry import method_named, methods, parse_settings
from nnunet_ima.segmentation.trainers import trainer_named
from tests.docs.pages import ROOT
from tests.docs.parsers import parse, parser_of

OURS = (
    "nnunet-ima-setup",
    "nnunet-ima-plan",
    "nnunet-ima-eval",
    "nnunet-ima-export",
    "nnunet-ima-soup",
    "nnunet-ima-ladder",
    "nnunet-ima-check-predictions",
    "nnunet-ima-classify",
)
TOOLS = {"cd", "export", "git", "mypy", "mkdocs", "pre-commit", "pytest", "ruff", "source"}
"""What everybody knows: taken as it is."""
MODULES = {"build", "mkdocs", "pip", "pytest", "twine", "venv"}
EXAMPLE = {"nnUNetTrainerJitter5", "jitter"}
"""The method that the how-to guide adds, tested in test_add_a_method.py."""


def mistakes(command: str) -> Iterator[str]:
    """One sentence for each mistake."""
    for inner in re.findall(r"\$\(([^()]+)\)", command):
        yield from mistakes(inner)
    for words in simple_commands(command):
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        if words:
            yield from _mistakes(words)


def simple_commands(line: str) -> Iterator[list[str]]:
    """`a x && b | c` -> [a, x], [b], [c]"""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _mistakes(words: list[str]) -> Iterator[str]:
    name, rest = words[0], words[1:]
    if name in OURS or name.startswith("nnUNetv2_"):
        yield from _parsed(name, rest)
    elif name in ("python", "python3"):
        yield from _python(rest)
    elif name == "torchrun":
        yield from _torchrun(rest)
    elif name == "pip":
        yield from _pip(rest)
    elif name.startswith("scripts/"):
        yield from _script(name, rest)
    elif name == "eval":
        if rest != ["$(nnunet-ima-setup)"]:
            yield f"eval {' '.join(rest)} is not the line that nnunet-ima-setup asks for"
    elif name not in TOOLS:
        yield f"unknown command {name}"


def _parsed(name: str, words: list[str]) -> Iterator[str]:
    parser = parser_of(name)
    if parser is None:
        yield f"there is no {name}"
        return
    told = parse(parser, words)
    if isinstance(told, str):
        yield told
    else:
        yield from _names(told)


@cache
def is_stock(trainer: str) -> bool:
    """Whether nnU-Net has a trainer of this name."""
    folder = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    return recursive_find_python_class(str(folder), trainer, "nnunetv2.training.nnUNetTrainer") is not None


def _names(told: argparse.Namespace) -> Iterator[str]:
    """Trainers, methods and settings that there are not."""
    given: dict[str, Any] = vars(told)
    for trainer in (given.get("tr") or "").split(","):
        if trainer and trainer not in EXAMPLE and not is_stock(trainer) and trainer_named(trainer) is None:
            yield f"there is no trainer {trainer}"
    if given.get("method") not in (None, *EXAMPLE, *methods()):
        yield f"there is no method {given['method']}"
    try:
        for word, values in parse_settings(given.get("set") or []).items():
            yield from (f"{word} has no {name}" for name in values if name not in settings_of(method_named(word)))
    except UserError as error:
        yield str(error)
    if "methods" in given and "task" in given:
        yield from _compared(told)


def _compared(told: argparse.Namespace) -> Iterator[str]:
    """The methods of scripts/compare_methods.py, and what it hands on to the training of a classifier."""
    for name in told.methods:
        if told.task == "segmentation":
            known = trainer_named(f"nnUNetTrainer{name}") is not None
        else:
            known = re.sub(r"\d+(\.\d+)?$", "", name) in methods()
        if not known:
            yield f"there is no method {name}"
    if told.task == "classification":
        yield from _parsed("nnunet-ima-classify", ["train", "--data", "IMAGES", "--output", "RUN", *told.training])


def _python(words: list[str]) -> Iterator[str]:
    if words[:1] == ["-m"]:
        module, rest = words[1], words[2:]
        if module.startswith("nnunet_ima.cli."):
            yield from _parsed(f"nnunet-ima-{module.rpartition('.')[2]}", rest)
        elif module not in MODULES:
            yield f"unknown module {module}"
    elif words and words[0].startswith("scripts/") and words[0].endswith(".py"):
        yield from _parsed(words[0], words[1:])
    else:
        yield f"python {' '.join(words)} is neither a script of this project nor a known module"


def _torchrun(words: list[str]) -> Iterator[str]:
    from torch.distributed.run import get_args_parser

    told = parse(get_args_parser(), words)
    if isinstance(told, str):
        yield told
    else:
        yield from _python(["-m", told.training_script, *told.training_script_args] if told.module else words)


def _pip(words: list[str]) -> Iterator[str]:
    """`pip install`, and where it is this package an extra that it has."""
    if words[:1] != ["install"]:
        yield f"pip {' '.join(words)} does not install"
    extras = re.search(r"optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    known = re.findall(r"^(\w+) = \[", extras[1], re.MULTILINE) if extras else []
    for word in words[1:]:
        match = re.fullmatch(r"(?:nnunet-ima|\.)\[(.*)\]", word)
        for extra in match[1].split(",") if match else []:
            if extra not in known:
                yield f"nnunet-ima has no extra {extra}"


def _script(name: str, words: list[str]) -> Iterator[str]:
    file = ROOT / name
    if not (file.is_file() and os.access(file, os.X_OK)):
        yield f"{name} is not there, or cannot be run"
    elif (ROOT / f"{name}.py").is_file():
        yield from _parsed(f"{name}.py", words[1:] if words[:1] == ["--no-env"] else words)
