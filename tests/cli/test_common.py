import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ima.cli.common import device_name, nnunet_folder, noise_levels, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing


@pytest.mark.parametrize(
    ("text", "levels"),
    [("5", [5.0]), ("5,15,25", [5.0, 15.0, 25.0]), ("5 , 15,25", [5.0, 15.0, 25.0]), ("0,0.5", [0.0, 0.5])],
)
def test_noise_levels_are_numbers(text: str, levels: list[float]) -> None:
    assert noise_levels(text) == levels


@pytest.mark.parametrize("text", ["", "5,,15", "5;15", "five", "5,nan", "inf", "-1,5", "5,", "5,1", "5,5"])
def test_noise_levels_refuse_what_is_no_level(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"must .*'{text}'"):
        noise_levels(text)


def test_positive_takes_whole_numbers_from_one_on() -> None:
    assert positive("1") == 1
    assert positive("20") == 20


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", ""])
def test_positive_refuses_everything_else(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be a whole number of at least 1, got '{text}'"):
        positive(text)


def test_argument_types_end_a_command_with_code_2_and_name_the_argument(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--noise", type=noise_levels)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--noise", "5;15"])
    assert caught.value.code == 2
    assert "argument --noise: must be numbers separated by commas" in capsys.readouterr().err


def test_a_folder_of_nnunet_is_read_from_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert nnunet_folder("nnUNet_raw") == tmp_path


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_raw", value)
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        nnunet_folder("nnUNet_raw")


@pytest.mark.parametrize("is_file", [False, True])
def test_a_variable_that_names_no_folder_is_named_with_its_value(
    is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "place"
    if is_file:
        path.touch()
    monkeypatch.setenv("nnUNet_raw", str(path))
    with pytest.raises(UserError, match=r"nnUNet_raw names .*place, which is not a folder"):
        nnunet_folder("nnUNet_raw")


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise UserError('-d D7: no such data set.')", 1, "command.py: -d D7: no such data set.\n"),
        ("argparse.ArgumentParser(prog='command').parse_args(['--wrong'])", 2, "unrecognized arguments: --wrong"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
    ids=["success", "mistake of the user", "bad usage", "interrupted"],
)
def test_exit_codes_of_a_command(statement: str, code: int, message: str, tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "import argparse\nfrom nnunet_ima.cli.common import run\nfrom nnunet_ima.errors import UserError\n"
        f"def command(arguments):\n    {statement}\nrun(command)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) is bool(message)


def test_a_bug_is_not_disguised_as_a_mistake_of_the_user() -> None:
    def command(arguments: list[str] | None) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(command)


def test_arguments_reach_the_command() -> None:
    given: list[list[str] | None] = []
    run(given.append, ["-d", "D4"])
    assert given == [["-d", "D4"]]


def test_the_cpu_can_always_be_had() -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        assert device_name("cpu") == "cpu"
        assert device_name(None) == ("cuda" if torch.cuda.is_available() else "cpu")
    finally:
        torch.set_num_threads(threads)


def test_a_device_that_is_not_there_is_refused_with_the_remedy() -> None:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for name in [name for name, there in available.items() if not there]:
        with pytest.raises(UserError, match=f"-device {name}: .*use -device cpu"):
            device_name(name)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with replacing(target) as path:
        assert path.parent == tmp_path
        assert path.suffix == ".json"
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_stays_as_it_was_when_writing_breaks_off(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), replacing(str(target)) as path:
        path.write_text("ha")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_file_is_not_left_half_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), replacing(tmp_path / "new.csv") as path:
        path.write_text("ha")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []
