"""Docstrings of the house as Markdown, for the documentation."""

import re
from typing import Any

import griffe


def prose(docstring: str) -> str:
    """The lines `name: meaning` of a docstring become a list; continuation lines of an item stay with it."""
    lines: list[str] = []
    in_item = False
    for line in docstring.splitlines():
        item = re.match(r"([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)", line)
        if item:
            if lines and lines[-1] and not in_item:
                lines.append("")
            lines.append(f"- `{item[1]}`: {line[item.end() :]}")
            in_item = True
        elif in_item and line.strip() and not line.startswith(("Raises", "Returns")):
            lines.append(f"    {line.strip()}")
        else:
            if in_item and line.strip():
                lines.append("")
            lines.append(line)
            in_item = False
    return "\n".join(lines)


class Prose(griffe.Extension):
    """For mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = prose(obj.docstring.value)
