"""`nnunet-ima-setup`: prints the line that makes nnU-Net find the trainers."""

import argparse
import os
import shlex

from nnunet_ima.cli.common import run
from nnunet_ima.segmentation.finding import extended_search_path


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-setup",
        description='Makes nnU-Net find the trainers of nnunet-ima in this shell: eval "$(nnunet-ima-setup)". '
        "A value that nnUNet_extTrainer already has is kept.",
    )
    result.add_argument(
        "--shell",
        choices=["sh", "fish", "powershell", "cmd"],
        default="cmd" if os.name == "nt" else "sh",
        help="[OPTIONAL] syntax of the line; default: sh (bash, zsh), cmd on Windows",
    )
    return result


def setup(arguments: list[str] | None = None) -> None:
    shell = parser().parse_args(arguments).shell
    value = extended_search_path()
    doubled = value.replace("'", "''")
    lines = {
        "sh": f"export nnUNet_extTrainer={shlex.quote(value)}",
        "fish": f"set -gx nnUNet_extTrainer {shlex.quote(value)}",
        "powershell": f"$env:nnUNet_extTrainer = '{doubled}'",
        "cmd": f'set "nnUNet_extTrainer={value}"',
    }
    print(lines[shell])


def main() -> None:
    run(setup)


if __name__ == "__main__":
    main()
