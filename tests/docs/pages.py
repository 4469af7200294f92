"""README and the pages of the documentation, taken apart: fenced blocks, commands, inline code, links, headings."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("", "sh", "bash", "shell", "console")
FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block; line: of its opening fence."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page.is_file()]


def taken_apart(page: Path, text: str) -> tuple[list[Block], str]:
    """The fenced blocks of a page, and the rest of it (lines of blocks left empty)."""
    blocks, rest, inside = [], [], None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if inside is None and match:
            inside, start = match, number
            lines = []
        elif inside is not None and line.strip() == inside["fence"]:
            blocks.append(Block(page, start, inside["language"], textwrap.dedent("\n".join(lines)) + "\n"))
            inside = None
        elif inside is not None:
            lines.append(line)
        rest.append("" if inside is not None or match else line)
    return blocks, "\n".join(rest)


def blocks_of(*languages: str) -> list[Block]:
    """All blocks in one of these languages."""
    every = (block for page in pages() for block in taken_apart(page, page.read_text())[0])
    return [block for block in every if block.language in languages]


def commands_in(block: Block) -> Iterator[str]:
    """The commands of a block, continued lines joined; of a console session what follows a prompt."""
    text = re.sub(r"\s*\\\n\s*", " ", block.text)
    for line in text.splitlines():
        if block.language == "console":
            if line.startswith("$ "):
                yield line[2:].strip()
        elif line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def inline_code(text: str) -> list[str]:
    """The spans of inline code of a page without its blocks."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def links_in(text: str) -> list[str]:
    """Where links and images of a page without its blocks lead to."""
    prose = re.sub(r"(?<!`)`[^`]+`(?!`)", "", text)
    return [*re.findall(r"\]\(([^)\s]+)\)", prose), *re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)]


def anchors_of(text: str) -> set[str]:
    """The anchors of the headings of a page without its blocks, as GitHub and Python-Markdown make them."""
    titles = re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}
