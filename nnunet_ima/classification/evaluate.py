"""The evaluation of one trained classifier: its test images, the attacks on them, what they found."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.classification.data import Images, Item, Split, find_images, load, read_split
from nnunet_ima.classification.model import build
from nnunet_ima.classification.report import first_to_flip
from nnunet_ima.classification.robustness import (
    Answers,
    answers,
    attacks,
    check_foolbox,
    distances,
    figures,
    white_noise,
)
from nnunet_ima.classification.settings import read_settings
from nnunet_ima.classification.train import read_checkpoint
from nnunet_ima.errors import UserError


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation: noise levels (in the units of images in 0 to 1), attacks by name, their steps,
    the amplitude of the white noise, other images than the run's test split, checkpoint; runs: how many are
    compared."""

    noise: list[float]
    attacks: list[str]
    steps: int
    white: float
    data: Path | None
    checkpoint: str
    skip_broken: bool
    suggest_noise: bool
    device: str
    runs: int = 1

    @property
    def levels(self) -> list[float]:
        return sorted({0.0, *self.noise})


@dataclass(frozen=True)
class Evaluated:
    """content: as written to `results.json`; found: by attack and level; distance: of each image from the boundary
    (see `distances`); flips: the figure of the images that flip first, None where there are none; margins: the run's
    histogram as base64 PNG, None without margins."""

    content: dict[str, Any]
    images: Images
    found: dict[str, dict[float, Answers]]
    distance: Tensor
    flips: Any
    margins: str | None


def evaluate(run: Path, request: Request) -> Evaluated:
    """UserError for a folder that holds no run, other classes, or an attack that cannot be had."""
    settings, classes, data = read_settings(run)
    check_foolbox(request.attacks, settings.norm)
    checkpoint, device = run / request.checkpoint, torch.device(request.device)
    state = read_checkpoint(checkpoint)
    content: dict[str, Any] = {"name": run.resolve().name, "run": str(run), "method": settings.method}
    if request.suggest_noise and (request.runs == 1 or "store" in state):
        content["suggested_noise"] = suggested_noise(run, state)
    split = _given(request.data, classes) if request.data else read_split(data, run / "split.csv")
    images = load(split, "test", settings.image_size, settings.channels, request.skip_broken)
    model = build(len(classes), settings.channels, 0).to(device)
    model.load_state_dict(state["model"])
    model.eval()
    known = attacks(request.steps, settings.norm)
    found = {
        name: {level: answers(model, images, known[name], level, device) for level in request.levels}
        for name in request.attacks
    }
    distance, points = distances(model, images, max(request.levels), settings.norm, device)
    content |= {
        "classes": classes,
        "images": len(images),
        "pixels": images.x[0].numel(),
        "part": "data" if request.data else "test",
        "norm": settings.norm,
        "attacks": {
            name: [figures(by_level[level], images, classes) for level in request.levels]
            for name, by_level in found.items()
        },
        "white_noise": {f"{request.white:g}": 100 * white_noise(model, images, request.white, device)},
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }
    histogram = run / "margins.png"
    margins = base64.b64encode(histogram.read_bytes()).decode() if histogram.is_file() else None
    return Evaluated(content, images, found, distance, first_to_flip(images, classes, distance, points), margins)


def check_comparable(runs: Sequence[Path], request: Request) -> None:
    """UserError for runs whose figures cannot stand side by side: other classes, image size, norm or test images."""
    first, first_classes, _ = read_settings(runs[0])
    for run in runs[1:]:
        settings, classes, _ = read_settings(run)
        different = [
            name for name in ("image_size", "channels", "norm") if getattr(settings, name) != getattr(first, name)
        ]
        if classes != first_classes:
            different.append("classes")
        if different:
            raise UserError(f"--model: {runs[0]} and {run} differ in {different[0]}: evaluate them one by one.")
        if not request.data and _test_files(run) != _test_files(runs[0]):
            raise UserError(
                f"--model: {runs[0]} and {run} have other test images: name the same ones with --data, or "
                "train with the same --seed or --csv."
            )


def check_unseen(split: Split, pretrained: Path) -> None:
    """UserError where the run of a checkpoint has trained on images that are test images now."""
    run = pretrained.parent
    if not (run / "split.csv").is_file():
        return
    _, _, data = read_settings(run)
    if data != split.folder.resolve():
        return
    seen = {item.file for item in read_split(data, run / "split.csv").items if item.part != "test"}
    tested = [item.file for item in split.part("test")]
    known = sum(file in seen for file in tested)
    if known:
        raise UserError(
            f"--pretrained {pretrained} was trained with {known} of the {len(tested)} test images: split alike, by the "
            "same --seed or --csv."
        )


def _test_files(run: Path) -> list[str]:
    _, _, data = read_settings(run)
    return sorted(item.file for item in read_split(data, run / "split.csv").part("test"))


def _given(folder: Path, classes: list[str]) -> Split:
    """All images of a folder. UserError if its classes are not those of the model."""
    items = [Item(file, label, "test") for label, files in find_images(folder).items() for file in files]
    split = Split(folder, sorted({item.label for item in items}), items)
    if split.classes != classes:
        raise UserError(
            f"--data {folder} has the classes {', '.join(split.classes)}, the model knows {', '.join(classes)}: "
            "name the folders as in training."
        )
    return split


def suggested_noise(run: Path, state: dict[str, Any]) -> float:
    """The middle of the margins of the training images that were visited (paper, App. C.3: a fixed noise level should
    lie in the bulk of their histogram). UserError for a run without margins."""
    if "store" not in state:
        raise UserError(f"--suggest-noise needs margins, {run} has none: evaluate a run of --method ima.")
    margins, visits = state["store"]["margins"], state["store"]["visits"]
    return float(margins[visits > 0].median())
