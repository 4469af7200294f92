"""The file and the table of `scripts/gpu_check.py`."""

import hashlib
import json
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]


def circumstances(device: torch.device, quick: bool) -> Row:
    """What all measurements of a file have in common: the machine, the versions, and a digest of the code."""
    on_gpu = device.type == "cuda"
    code = hashlib.sha256()
    for file in sorted(path for folder in ("nnunet_ima", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")):
        code.update(file.read_bytes())
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu ({platform.machine()})",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if on_gpu else None,
        "devices": torch.cuda.device_count(),
        "quick": quick,
        "python": platform.python_version(),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "numpy")},
        "code": code.hexdigest()[:12],
    }


class Results:
    """One JSON file: `run` as `circumstances` gives it, `measurements` by name, each on disk as soon as it is there.

    UserError where the file holds what another machine, other versions or other code gave; `overwrite` starts anew.
    """

    def __init__(self, file: Path, run: Row, overwrite: bool = False) -> None:
        self.file, self.run, self.left = file, run, dict[str, str]()
        self.measurements: dict[str, Row] = {}
        if file.exists() and not overwrite:
            self._continue(file)

    def _continue(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text())
            run, measurements = content["run"], content["measurements"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"--output {file} is no file of gpu_check: name another one.") from error
        differing = [name for name in self.run if run.get(name) != self.run[name]]
        if differing:
            raise UserError(
                f"--output {file} holds measurements of another {' and '.join(differing)}: name another file, or "
                "replace it with --overwrite."
            )
        self.measurements = {name: row for name, row in measurements.items() if "error" not in row}

    def add(self, name: str, row: Row, seconds: float) -> None:
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.measurements[name] = row | {"seconds": round(seconds, 1), "date": date}
        self.write()

    def write(self) -> None:
        content = {"run": self.run, "measurements": self.measurements, "left": self.left}
        with replacing(self.file) as path:
            path.write_text(json.dumps(content, indent=1) + "\n")

    @property
    def in_order(self) -> bool:
        """Whether all was measured, no test failed and nothing waits more often than it may."""
        return not self.left and not any(_faults(name, row) for name, row in self.measurements.items())


def _faults(name: str, row: Row) -> list[str]:
    """What is not as it should be in a measurement, in words."""
    if "error" in row:
        return [row["error"]]
    if name == "tests":
        return [f"failed: {test}" for test in row["failed"]] or ([] if row["passed"] else ["no test ran"])
    if name == "host waits":
        return [f"{what} above its limit" for what, found in row["calls"].items() if found["waits"] > found["limit"]]
    return []


def table(results: Results) -> str:
    """All measurements as lines of text."""
    found = results.measurements
    run = results.run
    lines = [f"{run['device']}, torch {run['versions']['torch']}, nnunetv2 {run['versions']['nnunetv2']}", ""]
    steps = {name: row for name, row in found.items() if "IMA_over_plain" in row}
    if steps:
        lines.append(
            f"{'training step':<30}{'plain s':>10}{'IMA s':>10}{'ratio':>8}{'plain GiB':>11}{'IMA GiB':>9}"
            f"{'correct':>9}{'crossed':>9}{'forwards':>10}"
        )
    lines += [_step_line(name, row) for name, row in steps.items()]
    for name, row in found.items():
        if name not in steps:
            lines += _other_lines(name, row)
    lines += [f"{name}: {fault}" for name, row in found.items() for fault in _faults(name, row)]
    return "\n".join([*lines, *(f"{name}: left out, {why}" for name, why in results.left.items())])


def _step_line(name: str, row: Row) -> str:
    plain, ima = row["plain"], row["IMA"]
    return (
        f"{name:<30}{plain['step_s']:>10.4f}{ima['step_s']:>10.4f}{row['IMA_over_plain']['step_s']:>8.2f}"
        f"{plain['peak_gib']:>11.2f}{ima['peak_gib']:>9.2f}{row['correct']:>9.1%}{row['crossed']:>9.1%}"
        f"{ima['forwards_per_slice']:>10.1f}"
    )


def _other_lines(name: str, row: Row) -> list[str]:
    if name == "forwards per second":
        rates = [f"{attack} {rate:.0f}" for attack, rate in row["rates"].items()]
        return [f"{name}: {', '.join(rates)}", *([row["left_out"]] if "left_out" in row else [])]
    if name == "host waits":
        calls = [f"{what} {found['waits']} (limit {found['limit']})" for what, found in row["calls"].items()]
        return [f"{name}: {', '.join(calls)}{'' if row['counted'] else '; not counted on this device'}"]
    if name == "tests":
        return [f"gpu tests: {row['passed']} passed, {len(row['failed'])} failed, {row['skipped']} skipped"]
    return []
