"""`scripts/gpu_check` on a machine without a GPU: what it says, and its quick mode, which runs the same measurements on
the CPU."""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
QUICK = ("--device", "cpu", "--quick", "--rounds", "1")
NAMES = ["tests", "host waits", "forwards per second", "16x16x6 float32", "16x16x6 AMP", "16x16x6 AMP + compile"]
NAMES += ["16x16x16x2 AMP"]


def _command(*flags: str) -> list[str]:
    return [str(SCRIPTS / "gpu_check"), "--no-env", *flags]


ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The script as a module, with its neighbours."""
    sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module("gpu_check")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        _command("--output", str(tmp_path / "out.json")), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr == "gpu_check: this machine has no usable CUDA device; run it on one that has.\n"


@pytest.mark.slow
def test_cut_off_it_continues_to_the_end(tmp_path: Path) -> None:
    """Killed after its first measurement; the same command then measures the others only."""
    file = tmp_path / "out.json"
    command = _command(*QUICK, "--output", str(file))
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not file.exists():
            time.sleep(0.05)
        process.kill()
    first = json.loads(file.read_text())["measurements"]
    assert 0 < len(first) < len(NAMES)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    content = json.loads(file.read_text())
    found = content["measurements"]
    assert list(found) == NAMES and not content["left"], done.stderr
    assert {name: found[name] for name in first} == first
    assert f"{next(iter(first))} ..." not in done.stdout and f"{NAMES[-1]} ..." in done.stdout
    for name in NAMES[3:]:
        row = found[name]
        assert row["IMA_over_plain"]["step_s"] > 1 and row["IMA"]["forwards_per_slice"] > 5
        assert 0.6 <= row["correct"] < 1 and 0.4 <= row["crossed"] < 1
    assert all(rate > 0 for rate in found["forwards per second"]["rates"].values())
    # Every gpu test is there, and skipped: that is no complete check.
    assert found["tests"]["skipped"] >= 20 and found["tests"]["passed"] == 0 and not found["tests"]["failed"]
    assert done.returncode == 1 and "tests: no test ran" in done.stdout
    assert "training step" in done.stdout and "host waits: bpgd 0 (limit 24)" in done.stdout


def _results(module: ModuleType, file: Path, **run: Any) -> Any:
    return module.Results(file, {"device": "a GPU", "code": "1", "versions": {"torch": "2", "nnunetv2": "2"}} | run)


def _check(module: ModuleType, seconds: float) -> Any:
    return module.Check(torch.device("cpu"), True, 1, time.monotonic() + seconds, Path())


def test_what_does_not_fit_or_fails_is_said_and_measured_next_time(module: ModuleType, tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("an error\nof many lines")

    def lasts() -> dict[str, Any]:
        time.sleep(60)
        return {}

    todo = [
        module.Task("fails", 0, fails),
        module.Task("long", 100, dict),
        module.Task("done", 0, lambda: {"value": 1}),
        module.Task("lasts", 0, lasts),
    ]
    results = _results(module, tmp_path / "out.json")
    module.work(_check(module, 3), todo, results)
    text = module.table(results)
    assert "fails: RuntimeError: an error" in text and not results.in_order
    assert re.search(r"long: left out, needs about 100 s, \d s were left", text)
    assert re.search(r"lasts: left out, was not done after \d s", text)
    again = _results(module, tmp_path / "out.json")
    assert list(again.measurements) == ["done"]
    module.work(_check(module, 200), [module.Task(one.name, 0, lambda: {"value": 2}) for one in todo], again)
    assert {name: row["value"] for name, row in again.measurements.items()} == {
        "done": 1,
        "fails": 2,
        "long": 2,
        "lasts": 2,
    }
    assert again.in_order


def test_measurements_of_other_machines_or_code_are_not_mixed(module: ModuleType, tmp_path: Path) -> None:
    _results(module, tmp_path / "out.json").write()
    with pytest.raises(ValueError, match=r"holds measurements of another device and code: name another file"):
        _results(module, tmp_path / "out.json", device="another", code="2")
    (tmp_path / "out.json").write_text("rubbish")
    with pytest.raises(ValueError, match=r"out\.json is no file of gpu_check"):
        _results(module, tmp_path / "out.json")


def test_a_wait_too_many_is_out_of_order(module: ModuleType, tmp_path: Path) -> None:
    results = _results(module, tmp_path / "out.json")
    results.add("host waits", {"calls": {"pgd": {"waits": 31, "limit": 31}}, "counted": True}, 1.0)
    assert results.in_order
    results.add("host waits", {"calls": {"pgd": {"waits": 32, "limit": 31}}, "counted": True}, 1.0)
    assert not results.in_order and "host waits: pgd above its limit" in module.table(results)


def test_waits_are_counted_from_what_torch_says(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says so in a warning for each, also for many on one line; other warnings count for nothing."""
    measure = importlib.import_module("waiting")
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with measure.counted_waits(torch.device("cuda")) as places:
        assert modes == ["warn"]
        for _ in range(3):
            warnings.warn(measure.WAIT, stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert modes == ["warn", "default"] and list(places.values()) == [3]
    assert next(iter(places)).startswith("test_gpu_check.py:")


def test_the_networks_are_those_nnunet_plans_for_the_patches(tmp_path: Path) -> None:
    synthetic = importlib.import_module("synthetic")
    wanted = {synthetic.D4: [32, 64, 128, 256], synthetic.LARGE: [32, 64, 128, 256, 512, 512, 512]}
    with synthetic.nnunet_in(tmp_path):
        for shape, features in wanted.items():
            synthetic._plan(shape, ["case0", "case1"])
            file = tmp_path / "preprocessed" / shape.dataset / "nnUNetPlans.json"
            network = json.loads(file.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
            assert network["features_per_stage"] == features
            assert network["strides"] == [[1, 1]] + [[2, 2]] * (len(features) - 1)
    assert [str(shape) for shape in wanted] == ["56x40x366", "320x256x40"]
