"""The Python of README and the documentation: what it imports is there, and what a reader can run runs."""

import ast
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.docs.pages import ROOT, Block, blocks_of

PYTHON = blocks_of("python")
OWN_MODEL = ROOT / "docs" / "how-to" / "own-model.md"


def missing(code: str) -> Iterator[str]:
    """What the code imports and is not there. SyntaxError for what is no Python."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for one in node.names:
                importlib.import_module(one.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            yield from (f"{node.module}.{one.name}" for one in node.names if not hasattr(module, one.name))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_imports_are_there(block: Block) -> None:
    assert list(missing(block.text)) == []


def test_what_is_missing_is_seen() -> None:
    assert list(missing("from nnunet_ima.attacks import pgd, pdg")) == ["nnunet_ima.attacks.pdg"]


@pytest.fixture
def own_model() -> dict[str, Any]:
    """What the page has made when a reader has typed all of its blocks."""
    torch.manual_seed(0)
    made: dict[str, Any] = {}
    exec("".join(block.text for block in PYTHON if block.page == OWN_MODEL), made)
    return made


def test_the_attacks_on_a_model_of_ones_own(own_model: dict[str, Any]) -> None:
    made = own_model
    for name in ("worse", "blind"):
        assert float((made[name] - made["x"]).flatten(1).norm(dim=1).max()) <= 1 + 1e-5, name
    assert float((made["noisy"] - made["slices"]).flatten(1).norm(dim=1).max()) <= 5 + 1e-4
    assert made["found"].crossed.any()
    assert (round(made["tvdi"], 3), round(made["adi"], 3)) == (0.863, 0.541)
