"""Docstrings of the house as Markdown, for the documentation."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

NAMES = r"[a-z_]\w*(?:, [a-z_]\w*)*"
STARTS = re.compile(rf"({NAMES}): (?=\S)")
WITHIN = re.compile(rf"(?<=[.;]) (?=(?!default)(?:{NAMES}): \S)(?![^()]*\))")


def prose(docstring: str) -> str:
    """What a docstring says of its arguments, `name: meaning`, becomes a list."""
    return "\n\n".join(_markdown(paragraph) for paragraph in docstring.split("\n\n"))


def _markdown(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if ">>>" in paragraph:
        return "\n".join(["```python", *(line.strip() for line in lines), "```"])
    blocks: list[str] = []
    for line in lines:
        # An item goes on in lines that are indented, and wherever its sentence has not ended.
        ended = bool(blocks) and STARTS.match(blocks[-1]) and blocks[-1].endswith(".") and not line.startswith(" ")
        if blocks and not ended and not STARTS.match(line):
            blocks[-1] += f" {line.strip()}"
        else:
            blocks.append(line.strip())
    items = [item for block in blocks for item in _items(block)]
    return "\n".join(items)


def _items(block: str) -> Iterator[str]:
    if not STARTS.match(block):
        yield f"{_escaped(block)}\n"
        return
    for item in WITHIN.split(block):
        name, meaning = item.split(": ", 1)
        yield f"- `{name}`: {_escaped(meaning)}"


def _escaped(text: str) -> str:
    """Asterisks and underscores are no emphasis, outside of code."""
    parts = text.split("`")
    return "`".join(part if number % 2 else re.sub(r"([*_<])", r"\\\1", part) for number, part in enumerate(parts))


class Prose(griffe.Extension):
    """For mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = prose(obj.docstring.value)
