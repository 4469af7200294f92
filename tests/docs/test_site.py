"""The site, built as `scripts/docs` builds it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ima.cli import classify, eval, export, plan, setup
from nnunet_ima.methods.registry import OWN
from tests.docs.pages import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    quiet = {"DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


def test_the_site_builds_without_warnings_and_needs_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        for loaded in ('<script src="http', '<link rel="stylesheet" href="http', '<img src="http', "fonts.googleapis"):
            assert loaded not in text, f"{page}: {loaded}"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_pages_open_from_the_disk_and_ask_nobody(site: Path) -> None:
    """What scripts load at run time, such as numbers from GitHub, is not in the HTML."""
    playwright = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "reference/api.html", "tutorials/first_look.html"):
            page.goto((site / name).as_uri(), wait_until="networkidle")
            assert page.locator("article h1").count() == 1, name
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_api_of_attacks_methods_and_metrics_is_there(site: Path) -> None:
    text = (site / "reference" / "api.html").read_text()
    for name in ("attacks.pgd.pgd", "attacks.boundary.bpgd", "methods.method.Method", "methods.margins.MarginStore"):
        assert f'id="nnunet_ima.{name}"' in text


def test_every_flag_and_every_setting_is_in_the_reference(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    settings = (site / "reference" / "settings.html").read_text()
    for module in (plan, eval, export, classify, setup):
        help_text = module.parser().format_help()
        assert module.parser().prog in commands
        for flag in {word.strip("[],") for word in help_text.split() if word.startswith(("-", "[-"))} - {
            "-h",
            "--help",
        }:
            assert flag in commands, f"{module.parser().prog} {flag}"
    for method in OWN:
        assert f"nnUNetTrainer{method.label}" in settings


@pytest.mark.parametrize("name", ["commands.md", "settings.md"])
def test_the_generated_pages_are_those_of_the_code(name: str) -> None:
    from reference import FOLDER, PAGES

    assert (FOLDER / name).read_text() == PAGES[name](), "run scripts/docs"


def test_docstrings_become_lists() -> None:
    from griffe_prose import prose

    assert prose("ids: any (slices: a; images: b), each once. more: yes.") == (
        "- `ids`: any (slices: a; images: b), each once.\n- `more`: yes."
    )
    assert prose("Does this.\n\nx, y: images;\n    and more. steps: how\nmany * times. None: all.\nThe rest.") == (
        "Does this.\n\n\n- `x, y`: images; and more.\n- `steps`: how many \\* times. None: all.\nThe rest.\n"
    )
