import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ima.cli.setup import setup
from nnunet_ima.nnunet.trainer_search import DISCOVERY, VARIABLE


def line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    setup(list(arguments))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return printed.strip()


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("sh", f"export nnUNet_extTrainer={shlex.quote(str(DISCOVERY))}"),
        ("fish", f"set -gx nnUNet_extTrainer {shlex.quote(str(DISCOVERY))}"),
        ("powershell", f"$env:nnUNet_extTrainer = '{DISCOVERY}'"),
        ("cmd", f'set "nnUNet_extTrainer={DISCOVERY}"'),
    ],
)
def test_prints_one_line_in_the_syntax_of_the_shell(
    shell: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert line(capsys, "--shell", shell) == expected


@pytest.mark.skipif(os.name == "nt", reason="the default there is cmd")
def test_the_default_shell_is_sh(capsys: pytest.CaptureFixture[str]) -> None:
    assert line(capsys) == line(capsys, "--shell", "sh")


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
def test_the_line_evaluated_by_a_shell_keeps_what_was_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    awkward = str(tmp_path / "it's $HOME here")
    monkeypatch.setenv(VARIABLE, awkward)
    command = f'{line(capsys, "--shell", "sh")}; exec "$0" -c "import os; print(os.environ[\'{VARIABLE}\'])"'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=True)
    assert done.stdout.strip().split(os.pathsep) == [awkward, str(DISCOVERY)]


def test_an_apostrophe_is_doubled_for_powershell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "/it's here")
    expected = f"$env:nnUNet_extTrainer = '/it''s here{os.pathsep}{DISCOVERY}'"
    assert line(capsys, "--shell", "powershell") == expected


def test_an_unknown_shell_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        setup(["--shell", "tcsh"])
    assert caught.value.code == 2
    assert "--shell" in capsys.readouterr().err
