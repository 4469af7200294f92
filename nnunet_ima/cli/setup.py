"""`nnunet-ima-setup`: makes nnU-Net find the trainers, and says what is missing."""

import argparse
import os
import shlex
import sys

from nnunet_ima.cli.common import run
from nnunet_ima.nnunet.trainer_search import extended_search_path


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-setup",
        description='Makes nnU-Net find the trainers of nnunet-ima in this shell: eval "$(nnunet-ima-setup)". '
        "A value that nnUNet_extTrainer already has is kept.",
    )
    choice = result.add_mutually_exclusive_group()
    choice.add_argument(
        "--shell",
        choices=["sh", "fish", "powershell", "cmd"],
        default="cmd" if os.name == "nt" else "sh",
        help="[OPTIONAL] syntax of the line; default: sh (bash, zsh), cmd on Windows",
    )
    choice.add_argument(
        "--check",
        action="store_true",
        help="[OPTIONAL] check every link from Python to the data, and say what is missing",
    )
    choice.add_argument(
        "--install",
        action="store_true",
        help="[OPTIONAL] put one file into the nnU-Net installation, so that no environment variable is needed",
    )
    choice.add_argument("--uninstall", action="store_true", help="[OPTIONAL] remove that file")
    result.add_argument("-d", metavar="DATASET", help="[OPTIONAL] with --check: check this data set too")
    return result


def setup(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if args.check:
        from nnunet_ima.cli.check import check

        if not check(args.d):
            sys.exit(1)
    elif args.install or args.uninstall:
        from nnunet_ima.nnunet import shim

        if args.install:
            print(f"Installed {shim.install()}; nnU-Net finds the trainers without a variable.")
        else:
            removed = shim.uninstall()
            print(f"Removed {removed}." if removed else "Nothing to remove: nothing was installed.")
    else:
        print(_line(args.shell))


def _line(shell: str) -> str:
    """The line that sets the variable, in the syntax of the shell."""
    value = extended_search_path()
    doubled = value.replace("'", "''")
    return {
        "sh": f"export nnUNet_extTrainer={shlex.quote(value)}",
        "fish": f"set -gx nnUNet_extTrainer {shlex.quote(value)}",
        "powershell": f"$env:nnUNet_extTrainer = '{doubled}'",
        "cmd": f'set "nnUNet_extTrainer={value}"',
    }[shell]


def main() -> None:
    run(setup)


if __name__ == "__main__":
    main()
