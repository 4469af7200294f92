"""What the commands share: exit codes, argument types, nnU-Net's folders and devices."""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.errors import UserError


def run(command: Callable[[list[str] | None], None], arguments: list[str] | None = None) -> None:
    """Exit 0, or 1 with one sentence for a mistake of the user (argparse itself exits with 2 for bad usage)."""
    try:
        command(arguments)
    except UserError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def noise_levels(text: str) -> list[float]:
    """`5,15,25` -> [5.0, 15.0, 25.0], for argparse."""
    parts = [part.strip() for part in text.split(",")]
    try:
        levels = [float(part) for part in parts]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, like 5,15,25, got {text!r}") from None
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {text!r}")
    ordered = sorted(set(levels))
    if levels != ordered:
        better = ",".join(f"{level:g}" for level in ordered)
        raise argparse.ArgumentTypeError(f"must ascend without repeats, got {text!r}: write {better}")
    return levels


def names_among(known: Sequence[str], everything: bool = False) -> Callable[[str], tuple[str, ...]]:
    """`pgd,square` -> ("pgd", "square"), for argparse. everything: `all`, alone, is allowed too."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if everything and names == ("all",):
            return names
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = ", ".join(unknown) or repr(text)
            raise argparse.ArgumentTypeError(f"must be among {', '.join(known)}, got {wrong}")
        return names

    return parse


def frequency_band(text: str) -> tuple[float, float]:
    """`0,0.25` -> (0.0, 0.25), for argparse."""
    parts = [part.strip() for part in text.split(",")]
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        low = high = math.nan
    if not 0 <= low < high <= 1:
        raise argparse.ArgumentTypeError(f"must be LOW,HIGH with 0 <= LOW < HIGH <= 1, like 0,0.25, got {text!r}")
    return low, high


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number


def positives(text: str) -> list[int]:
    """`16,32,64` -> [16, 32, 64], for argparse."""
    return [positive(part) for part in text.split(",")]


def nnunet_folder(variable: str) -> Path:
    """The folder that nnU-Net's environment variable names. UserError if it is not set or not there."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"The environment variable {variable} is not set: set it to nnU-Net's folder of that name.")
    if not Path(value).is_dir():
        raise UserError(
            f"The environment variable {variable} names {value}, which is not a folder: create or correct it."
        )
    return Path(value)


def device_name(wanted: str | None) -> str:
    """The device to compute on. None: cuda if there is one, else cpu, with all cores or OMP_NUM_THREADS of them.

    UserError if torch cannot use the device wanted.
    """
    import torch

    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda: this machine has no usable CUDA device; use -device cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("-device mps: this machine has no usable MPS device; use -device cpu.")
    if name == "cpu" and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(os.cpu_count() or 1)
    return name


def add_checkpoint(group: Any, what: str = "checkpoint file") -> None:
    """The flag -chk of a parser or group of flags."""
    group.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help=f"[OPTIONAL] {what}; default: checkpoint_final.pth"
    )


def add_device(group: Any) -> None:
    """The flag -device, see `device_name`."""
    group.add_argument("-device", choices=["cuda", "cpu", "mps"], help="[OPTIONAL] default: cuda, cpu without one")
