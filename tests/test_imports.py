"""The contracts of pyproject.toml about imports, and that `lint-imports` sees what breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package with its contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "nnunet_ima", tmp_path / "nnunet_ima", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def verdict(house: Path) -> tuple[int, str]:
    command = "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", command], cwd=house, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_imports_run_downwards(house: Path) -> None:
    status, output = verdict(house)
    assert status == 0 and "2 kept, 0 broken" in output, output


UPWARDS = "Imports run downwards BROKEN"
NNUNET = "Attacks, metrics and methods know no nnU-Net BROKEN"


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("metrics/indices.py", "import nnunet_ima.report.tables", UPWARDS),
        ("attacks/pgd.py", "import nnunet_ima.metrics.indices", UPWARDS),
        ("plots.py", "def late():\n    from nnunet_ima.cli import eval", UPWARDS),
        ("errors.py", "import nnunet_ima.files", UPWARDS),
        ("attacks/pgd.py", "import nnunetv2", NNUNET),
        ("methods/method.py", "from batchgenerators.utilities import file_and_folder_operations", NNUNET),
        ("a_new_room.py", "", "a_new_room"),
    ],
)
def test_a_planted_import_is_seen(house: Path, file: str, line: str, said: str) -> None:
    with (house / "nnunet_ima" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n{line}\n")
    status, output = verdict(house)
    assert status == 1 and said in output, output
