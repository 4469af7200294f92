"""Everything that runs on a GPU, run on an accelerator that is none.

A device can be registered once in a process and stays, so that pytest runs in a process of its own on the files of
`inside/`; each of them is a test here. By hand:
`python -m pytest -p no:xdist -o addopts= tests/accelerator/inside/attacks.py`.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accelerator.backend import missing
from tests.conftest import Workspace

INSIDE = Path(__file__).parent / "inside"
ROOT = Path(__file__).parents[2]
FILES = sorted(file.stem for file in INSIDE.glob("[a-z]*.py") if file.stem != "conftest")
LACKS = missing()
pytestmark = pytest.mark.skipif(LACKS is not None, reason=str(LACKS))
Outcomes = dict[str, dict[str, str]]
"""By file and test: "" where it passed, else what went wrong; skipped tests are left out."""


def run_inside(workspace: Workspace, folder: Path, marker: str) -> Outcomes:
    """pytest on the files of `inside/` in a process of its own."""
    report = folder / "report.xml"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=-ra --strict-markers",
            "-m",
            marker,
            "--junit-xml",
            str(report),
            "--basetemp",
            str(folder / "tmp"),
            *(str(INSIDE / f"{name}.py") for name in FILES),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        env={
            **workspace.environment,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "NNUNET_IMA_WORKSPACE": str(workspace.folder),
        },
    )
    assert report.is_file(), f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return read_report(report)


def read_report(report: Path) -> Outcomes:
    found: Outcomes = defaultdict(dict)
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        # A test that is expected to fail, and does, is reported as skipped.
        if case.find("skipped") is None:
            file = case.get("classname", "").rpartition(".")[2]
            found[file][case.get("name", "")] = "\n".join(f"{child.get('message')}\n{child.text}" for child in wrong)
    return found


@pytest.fixture(scope="module")
def outcomes(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    yield run_inside(workspace, tmp_path_factory.mktemp("accelerator"), "not slow")


@pytest.fixture(scope="module")
def slow_outcomes(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    yield run_inside(workspace, tmp_path_factory.mktemp("accelerator"), "slow")


def check(found: dict[str, str], file: str) -> None:
    failed = {name: why for name, why in found.items() if why}
    assert found, f"no test of {file} ran"
    assert not failed, "\n\n".join(f"{file} {name}: {why}" for name, why in failed.items())


@pytest.mark.parametrize("file", FILES)
def test_on_the_accelerator(file: str, outcomes: Outcomes) -> None:
    check(outcomes[file], file)


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in FILES if "mark.slow" in (INSIDE / f"{file}.py").read_text()])
def test_on_the_accelerator_in_full(file: str, slow_outcomes: Outcomes) -> None:
    check(slow_outcomes[file], file)
