"""Links and images of README and the documentation lead somewhere."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, anchors_of, links_in, pages, taken_apart

DOCS = ROOT / "docs"


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere, or out of the site."""
    prose = taken_apart(page, text)[1]
    found = []
    for link in links_in(prose):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        leaves = DOCS in page.parents and DOCS not in target.parents
        if leaves or not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md" and target.exists():
            own = prose if target == page else taken_apart(target, target.read_text())[1]
            if anchor not in anchors_of(own):
                found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


@pytest.mark.parametrize("link", ["nowhere.md", "index.md#nothing", "#nothing", "../README.md", "images/no.png"])
def test_a_broken_link_is_seen(link: str) -> None:
    page = DOCS / "index.md"
    assert broken(page, f"# Title\n\nText with [a\nlink]({link}).\n") == [link]
    assert broken(page, f'# Title\n\n<img src="{link}">\n') == [link]


def test_what_is_no_link_is_left_alone() -> None:
    text = "# A title, long\n\n[here](#a-title-long) `[x](y)`\n\n```python\nnames[0](1)\n```\n"
    assert broken(DOCS / "index.md", text) == []


@pytest.mark.parametrize("page", [page for page in pages() if DOCS in page.parents], ids=lambda page: page.name)
def test_images_of_pages_are_markdown(page: Path) -> None:
    """The site moves pages into folders of their own: it corrects the links of Markdown, not those of HTML."""
    assert "<img" not in taken_apart(page, page.read_text())[1]


def test_every_page_can_be_reached_and_has_one_title() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in pages()
        for link in links_in(taken_apart(page, page.read_text())[1])
    }
    for page in pages():
        assert page in linked or page.parent in (ROOT, DOCS), f"no page links to {page}"
        titles = [line for line in taken_apart(page, page.read_text())[1].splitlines() if line.startswith("# ")]
        assert len(titles) == 1, page
