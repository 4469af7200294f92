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
    """UserError if nothing can be written to `folder`, or it cannot be made: said before long work, not after. It is
    not made yet, so that a refusal leaves no empty folder behind."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): name another folder with -o, or change its permissions."
        ) from error


@contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `target`, which is made if need be, with its suffix; moved onto `target` at the
    end, removed on an error."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{MARK}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
