"""Ten minutes on a GPU: the gpu tests, training steps, attacks and host waits, in one file and one table.

    scripts/gpu_check --output gpu_check.json

Needs no data set: slices are drawn, networks planned by nnU-Net for them (scripts/synthetic.py says how there comes to
be something to attack). Training steps: plain nnU-Net and IMA in turns on the same network and batches, D4's shape
(56 x 40, batch 366) and 320 x 256 (batch 40), in float32 (convolutions in TF32, torch's default), under nnU-Net's mixed
precision, and compiled as well; cuDNN searches for the fastest kernels, as in nnUNetv2_train. Each measurement is
written as soon as it is there; the same command continues where it was cut off. Exit status: 0 if all is there and in
order, 1 if something is left, failed or above its limit, 2 if there is no GPU.
"""

import argparse
import gc
import os
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch
from gpu_results import ROOT, Results, Row, circumstances, table
from synthetic import D4, LARGE, PRECISIONS, TINY, TINY_VOLUME, VOLUME, Pool, Shape, nnunet_in, write_dataset

from nnunet_ima.cli.common import positive, run
from nnunet_ima.errors import first_line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), help="default: gpu_check.json")
    parser.add_argument("--overwrite", action="store_true", help="replace what the file holds")
    parser.add_argument("--minutes", type=positive, default=10, help="what does not fit is left out; default: 10")
    parser.add_argument("--rounds", type=positive, default=5, help="of each comparison; the median counts; default: 5")
    parser.add_argument("-device", "--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try this script")
    parser.add_argument("--quick", action="store_true", help="tiny slices and networks: to try this script")
    return parser.parse_args(arguments)


@dataclass
class Check:
    """One run: where it computes, and until when (of `monotonic`)."""

    device: torch.device
    quick: bool
    rounds: int
    deadline: float
    folder: Path

    def seconds_left(self) -> float:
        return self.deadline - monotonic()

    # Imported when something is to be measured: that takes seconds, which a run that is complete can spare.

    def steps(self, shape: Shape, precision: str) -> Row:
        from gpu_measure import training_steps

        return training_steps(shape, pool_of(shape), self.device, precision, self.rounds, self.seconds_left)

    def throughput(self, shape: Shape) -> Row:
        from gpu_measure import throughput

        return throughput(shape, pool_of(shape), self.device, self.rounds)

    def waits(self, shape: Shape) -> Row:
        from gpu_measure import host_waits

        calls = host_waits(shape, pool_of(shape), self.device)
        return {"calls": calls, "counted": self.device.type == "cuda"}

    def tests(self) -> Row:
        report = self.folder / "tests.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=--strict-markers",
            "-q",
            "-m",
            "gpu and not slow",
            f"--junitxml={report}",
            f"tests/gpu{'/test_attacks.py' if self.quick else ''}",
        ]
        output = _run_all_of_it(command)
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report: {(output.strip().splitlines() or ['no output'])[-1]}")
        return _read_report(report) | {"output": output[-5000:]}


@cache
def pool_of(shape: Shape) -> Pool:
    return write_dataset(shape)


def _run_all_of_it(command: list[str]) -> str:
    """The output of a command, whose own children end with it where this process is interrupted."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            return process.communicate()[0]
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _read_report(report: Path) -> Row:
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
        "durations": {str(case.get("name")): float(case.get("time") or 0) for case in cases},
    }


@dataclass(frozen=True)
class Task:
    """needs: seconds it is expected to take on an H100, preparation and compiling included; not started with less."""

    name: str
    needs: float
    measure: Callable[[], Row]


def tasks(check: Check) -> list[Task]:
    """What is quick and what tells most first, what compiles last."""
    if check.quick:
        steps = [Task(f"{TINY} {name}", 0, partial(check.steps, TINY, name)) for name in PRECISIONS]
        return [
            Task("tests", 0, check.tests),
            Task("host waits", 0, partial(check.waits, TINY)),
            Task("forwards per second", 0, partial(check.throughput, TINY)),
            *steps,
            Task(f"{TINY_VOLUME} {PRECISIONS[1]}", 0, partial(check.steps, TINY_VOLUME, PRECISIONS[1])),
        ]
    return [
        Task("host waits", 20, partial(check.waits, D4)),
        Task("forwards per second", 30, partial(check.throughput, D4)),
        *(Task(f"{D4} {name}", 30, partial(check.steps, D4, name)) for name in PRECISIONS[:2]),
        *(Task(f"{LARGE} {name}", 45, partial(check.steps, LARGE, name)) for name in PRECISIONS[:2]),
        Task(f"{VOLUME} {PRECISIONS[1]}", 60, partial(check.steps, VOLUME, PRECISIONS[1])),
        Task("tests", 200, check.tests),
        Task(f"{D4} {PRECISIONS[2]}", 90, partial(check.steps, D4, PRECISIONS[2])),
        Task(f"{LARGE} {PRECISIONS[2]}", 120, partial(check.steps, LARGE, PRECISIONS[2])),
    ]


class OutOfTime(BaseException):
    """Raised in the middle of a measurement; no `except Exception` on the way shall stop it."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """OutOfTime after so many seconds, where the system has alarms."""

    def ring(*_: Any) -> None:
        raise OutOfTime

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work(check: Check, todo: list[Task], results: Results) -> None:
    """Each task that is not in the results yet and still fits; an error of one does not stop the others."""
    for task in todo:
        if task.name in results.measurements:
            continue
        if check.seconds_left() < max(task.needs, 1):
            results.left[task.name] = f"needs about {task.needs:.0f} s, {max(check.seconds_left(), 0):.0f} s were left"
            continue
        print(f"{task.name} ...", flush=True)
        started = perf_counter()
        try:
            # nnU-Net tells much about itself.
            with alarm(check.seconds_left()), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                row = task.measure()
        except OutOfTime:
            results.left[task.name] = f"was not done after {perf_counter() - started:.0f} s"
            continue
        except (Exception, SystemExit) as error:
            row = {"error": f"{type(error).__name__}: {first_line(error)}"}
        results.add(task.name, row, perf_counter() - started)
        # The next one's peak memory is its own.
        gc.collect()
        if check.device.type == "cuda":
            torch.cuda.empty_cache()
    results.write()


def check_gpu(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    deadline = monotonic() + 60 * args.minutes
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu_check: this machine has no usable CUDA device; run it on one that has.", file=sys.stderr)
        sys.exit(2)
    results = Results(args.output, circumstances(torch.device(args.device), args.quick), args.overwrite)
    torch.backends.cudnn.benchmark = True
    with tempfile.TemporaryDirectory() as name, nnunet_in(Path(name)):
        check = Check(torch.device(args.device), args.quick, args.rounds, deadline, Path(name))
        work(check, tasks(check), results)
    print(f"\n{table(results)}\n\nAll of it is in {args.output}.")
    if not results.in_order:
        sys.exit(1)


def main() -> None:
    run(check_gpu)


if __name__ == "__main__":
    main()
