"""Nothing half-written: files go to a temporary name beside their target and are moved into place."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ima.errors import UserError

MARK = ".tmp"


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote to `folder`; only where no other
    process writes."""
    for left in folder.glob(f".*{MARK}.*"):
        left.unlink()


def check_writable(folder: Path) -> None:
    """UserError if nothing can be written to `folder`, which is made if need be: said before long work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): name another folder with -o, or change its permissions."
        ) from error


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `target`, with its suffix; moved onto it at the end, removed on an error."""
    target = Path(target)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{MARK}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
