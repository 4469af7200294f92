"""The messages that the troubleshooting guide quotes are those that users meet."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.pages import ROOT

GUIDE = ROOT / "docs" / "how-to" / "troubleshoot.md"
LEFT_OUT = "..."


def quoted() -> list[str]:
    """The messages in bold code, each what a user sees with `...` for what varies."""
    return [" ".join(text.split()) for text in re.findall(r"\*\*`([^`]+)`\.?\*\*", GUIDE.read_text())]


@cache
def texts_of_the_code() -> str:
    """All strings of the package, what varies in them as `...`."""
    return "\n".join(
        text
        for file in sorted((ROOT / "nnunet_ima").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        for text in _text(node)
    )


def _text(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else LEFT_OUT for part in node.values)
        yield "".join(map(str, parts))


def said(message: str) -> bool:
    return all(part.strip() in texts_of_the_code() for part in message.split(LEFT_OUT))


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_one_of_the_code(message: str) -> None:
    assert said(message)


def test_the_guide_quotes_and_a_message_of_no_code_is_seen() -> None:
    assert len(quoted()) > 15
    assert not said("The model ... has fallen asleep")
