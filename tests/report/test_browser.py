"""The report in a browser: Chromium without a network, at two widths, light and dark, with and without scripts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import CHECKS, _report, _summary

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install nnunet-ima[dev]")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the PATH")]
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("report")
    models = [_summary(0, 0.3) | {"audit": CHECKS}, _summary(1, 0.1, "nnUNetTrainerPlain")]
    _report(folder, models)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, report: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page; its parameter: what the browser's context is told."""
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.goto(report)
    yield page
    context.close()


@pytest.mark.parametrize(
    "opened",
    [
        {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        for width in (1200, 400)
        for scheme in ("light", "dark")
    ],
    indirect=True,
    ids=["wide light", "wide dark", "phone light", "phone dark"],
)
def test_the_page_is_accessible_and_not_wider_than_the_screen(opened: Any) -> None:
    found = axe.Axe().run(opened).response["violations"]
    assert not found, json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in found], indent=1)
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]


def test_the_slider_shows_one_noise_level_at_a_time(opened: Any) -> None:
    slider = opened.get_by_label("Noise level", exact=True)
    for row, level in enumerate(("0", "5", "10")):
        slider.fill(str(row))
        visible = [frame.get_attribute("data-level") for frame in opened.locator(".frame:not(.off)").all()]
        assert set(visible) == {str(row)} and len(visible) == 2
        assert opened.locator(".slider output").inner_text().startswith(f"{level} (")
        assert opened.locator(".panel figcaption").get_by_text(f"noise level {level}", exact=True).first.is_visible()
    assert not opened.locator(".panel figcaption").get_by_text("noise level 5", exact=True).first.is_visible()


def test_a_click_on_a_heading_sorts_and_the_next_one_turns_the_order(opened: Any) -> None:
    table = opened.locator("table", has_text="ADI (%) of each case")
    heading = table.locator("thead th").nth(2)

    def column() -> list[float]:
        return [float(cell) for cell in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]

    before = column()
    heading.get_by_role("button").click()
    assert column() == sorted(before) != before and heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert column() == sorted(before, reverse=True) and heading.get_attribute("aria-sort") == "descending"


def test_values_appear_where_the_pointer_is(opened: Any) -> None:
    column = opened.locator(".column").nth(1)
    values = column.locator(".values")
    assert not values.is_visible()
    column.locator(".target").hover()
    assert values.is_visible() and "noise level 5" in (values.text_content() or "")


@pytest.mark.parametrize("opened", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_all_levels_are_there(opened: Any) -> None:
    assert not opened.locator(".slider").is_visible() and opened.locator("thead button").count() == 0
    captions = opened.locator(".panel figcaption")
    for level in ("0", "5", "10"):
        assert all(one.is_visible() for one in captions.get_by_text(f"noise level {level}", exact=True).all())
    assert opened.locator(".frame").count() == 6


def test_in_print_all_levels_are_there_and_colours_are_light(opened: Any) -> None:
    opened.emulate_media(media="print", color_scheme="dark")
    captions = opened.locator(".panel figcaption").get_by_text("noise level 10", exact=True).all()
    assert captions and all(one.is_visible() for one in captions)
    assert not opened.locator(".slider").is_visible()
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
