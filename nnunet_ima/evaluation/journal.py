"""What a run has found so far, on disk: a run killed at any moment continues where it was.

One line of JSON per batch of slices, kind of noise and level. Batches are the same in each run, so that a continued
run computes exactly what an undisturbed one does. Each process writes a file of its own and reads all of them.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_ima.errors import UserError

Key = tuple[str, float, int]
"""(kind of noise with its settings, level, number of the batch)."""


def digest(content: Any) -> str:
    """A short text that differs where the content (JSON) differs."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _by_hand(file)


def _by_hand(file: Any) -> str:
    """Python 3.10 has no hashlib.file_digest."""
    found = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        found.update(block)
    return found.hexdigest()


class Journal:
    """`folder`/journal/rank*.jsonl. identity: what all records of the folder have in common (model, slices, ...), as
    readable texts by name.

    UserError, naming what differs, where the folder holds the journal of another run; `overwrite` removes that.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], rank: int = 0, overwrite: bool = False) -> None:
        self.folder, self.identity = folder / "journal", dict(identity)
        self.own = self.folder / f"rank{rank}.jsonl"
        self.found: dict[Key, dict[str, Any]] = {}
        for file in sorted(self.folder.glob("rank*.jsonl")):
            self._read(file, overwrite)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _read(self, path: Path, overwrite: bool) -> None:
        lines = path.read_bytes().split(b"\n")
        # What follows the last newline was being written when the process was killed.
        whole, torn = lines[:-1], lines[-1]
        header = _parsed(whole[0]) if whole else None
        if header != self.identity:
            if header is not None and not overwrite:
                raise UserError(_in_the_way(path.parent.parent, header, self.identity))
            path.unlink(missing_ok=True)
            return
        if torn and path == self.own:
            os.truncate(path, sum(len(line) + 1 for line in whole))
        for line in whole[1:]:
            record = _parsed(line)
            if record is not None:
                self.found[(record["noise"], record["level"], record["batch"])] = record["found"]

    def add(self, key: Key, found: dict[str, Any]) -> None:
        """Remember what was found, on disk before this returns."""
        self.found[key] = found
        self._write({"noise": key[0], "level": key[1], "batch": key[2], "found": found})

    def _write(self, content: Mapping[str, Any]) -> None:
        with self.own.open("a") as file:
            if file.tell() == 0:
                file.write(json.dumps(self.identity) + "\n")
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _in_the_way(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, str]) -> str:
    names = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    differing = ", ".join(f"{name} {theirs.get(name, 'none')} instead of {ours.get(name, 'none')}" for name in names)
    return (
        f"{folder} holds the results of another run ({differing}): name another folder with -o, or replace them with "
        "--overwrite."
    )
