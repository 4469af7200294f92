"""Folders of class folders, or a CSV, and their split: who is trained on, validated on, tested on."""

import csv
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.classification.images import is_image, read_image
from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing

PARTS = ("train", "validation", "test")
TEST, VALIDATION = 200, 30
"""Images per class of the paper's test and validation parts (COVID-19 CT)."""


@dataclass(frozen=True)
class Item:
    """file: relative to the data folder; label: name of its class; group: of a patient, '' if unknown."""

    file: str
    label: str
    part: str
    group: str = ""


@dataclass(frozen=True)
class Split:
    """classes: names, sorted; their positions are the numbers of the labels."""

    folder: Path
    classes: list[str]
    items: list[Item]

    def part(self, name: str) -> list[Item]:
        return [item for item in self.items if item.part == name]

    def label(self, item: Item) -> int:
        return self.classes.index(item.label)


def find_images(folder: Path) -> dict[str, list[str]]:
    """Files by class, relative to `folder`. UserError for a missing folder, an empty class, or fewer than two."""
    if not folder.is_dir():
        raise UserError(f"--data {folder} is not a folder: name one that holds a folder of images for each class.")
    found = {
        entry.name: sorted(str(file.relative_to(folder)) for file in entry.rglob("*") if is_image(file))
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise UserError(f"--data {folder}: the class folders {', '.join(empty)} hold no images; fill or remove them.")
    if len(found) < 2:
        raise UserError(f"--data {folder} has {len(found)} class folders, two or more are needed.")
    return found


def split_folder(folder: Path, seed: int, test: int | None = None, validation: int | None = None) -> Split:
    """Seeded and stratified: per class `test` and `validation` images, the rest for training; by default the paper's
    200 and 30, or a fifth and a twentieth of a class that has not that many to spare."""
    items = []
    for label, files in find_images(folder).items():
        counts = (_share(test, TEST, len(files), 5), _share(validation, VALIDATION, len(files), 20))
        if sum(counts) >= len(files):
            raise UserError(
                f"--test {counts[0]} and --validation {counts[1]} leave nothing of the {len(files)} images of class "
                f"{label} to train on: make them smaller."
            )
        rest, tested = train_test_split(files, test_size=counts[0], random_state=seed)
        trained, validated = train_test_split(rest, test_size=counts[1], random_state=seed)
        items += [
            Item(file, label, part)
            for part, chosen in zip(PARTS, (trained, validated, tested), strict=True)
            for file in sorted(chosen)
        ]
    return Split(folder, sorted({item.label for item in items}), items)


def _share(wanted: int | None, paper: int, count: int, divisor: int) -> int:
    if wanted is not None:
        return wanted
    return paper if count > 4 * paper else max(1, count // divisor)


def read_split(folder: Path, file: Path) -> Split:
    """A CSV with the columns file, label, split (train, validation, test) and optionally group (patient).

    UserError for missing columns or files, an unknown split, fewer than two classes, or a group in two splits.
    """
    if not file.is_file():
        raise UserError(f"--csv {file} does not exist: name a CSV with the columns file, label, split.")
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    missing = [name for name in ("file", "label", "split") if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"--csv {file} has no columns {', '.join(missing)}: add them.")
    items = [Item(row["file"], row["label"], row["split"], row.get("group") or "") for row in rows]
    strange = sorted({item.part for item in items} - set(PARTS))
    if strange:
        raise UserError(f"--csv {file} has the splits {', '.join(strange)}: they must be among {', '.join(PARTS)}.")
    absent = [item.file for item in items if not (folder / item.file).is_file()]
    if absent:
        raise UserError(f"--csv {file} names {len(absent)} files that are not in {folder}, such as {absent[0]}.")
    _check_groups(file, items)
    classes = sorted({item.label for item in items})
    if len(classes) < 2:
        raise UserError(f"--csv {file} has {len(classes)} class, two or more are needed.")
    return Split(folder, classes, items)


def _check_groups(file: Path, items: Sequence[Item]) -> None:
    parts: dict[str, set[str]] = {}
    for item in items:
        parts.setdefault(item.group or f"\0{item.file}", set()).add(item.part)
    torn = sorted(group for group, found in parts.items() if len(found) > 1)
    if torn:
        name = torn[0].lstrip("\0")
        raise UserError(f"--csv {file}: {name} is in {' and '.join(sorted(parts[torn[0]]))}; keep it in one split.")


def write_split(split: Split, path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split", "group"])
        writer.writerows([item.file, item.label, item.part, item.group] for item in split.items)


@dataclass(frozen=True)
class Images:
    """x: (N, C, size, size) in [0, 1]; y: (N,) class numbers; names: files; groups: patients, '' if unknown."""

    x: Tensor
    y: Tensor
    names: list[str]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.names)


def load(split: Split, part: str, size: int, channels: int = 1, skip_broken: bool = False) -> Images:
    """The images of a part, all in memory. UserError, naming and counting them, for files that cannot be read, unless
    `skip_broken`; and for a class of which nothing is left."""
    items = split.part(part)

    def read(item: Item) -> Tensor | str:
        try:
            return read_image(split.folder / item.file, size, channels)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        bar = tqdm(pool.map(read, items), f"Reading {part}", len(items), unit="image", leave=False, dynamic_ncols=True)
        found = list(bar)
    broken = [reason for reason in found if isinstance(reason, str)]
    if broken and not skip_broken:
        raise UserError(
            f"{len(broken)} of {len(items)} images cannot be used, or leave them out with --skip-broken; "
            f"the first: {broken[0]}"
        )
    kept = [(item, image) for item, image in zip(items, found, strict=True) if isinstance(image, Tensor)]
    counts = Counter(item.label for item, _ in kept)
    lacking = [name for name in split.classes if not counts[name]]
    if lacking:
        raise UserError(f"The {part} split has no image of the classes {', '.join(lacking)}: split the data anew.")
    return Images(
        torch.stack([image for _, image in kept]),
        torch.tensor([split.label(item) for item, _ in kept]),
        [item.file for item, _ in kept],
        [item.group for item, _ in kept],
    )
