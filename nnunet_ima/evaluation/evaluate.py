"""One evaluation from its choices to its files: which cases and slices, which noises, where the figures go."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import nnunet_ima
from nnunet_ima.attacks.frequency import Band, in_band
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.corruptions import SEVERITIES, corruption
from nnunet_ima.evaluation.journal import Journal, file_digest
from nnunet_ima.evaluation.nested import nested
from nnunet_ima.evaluation.noises import Noise, Settings, Target, attack, random_noise, told_per_pixel
from nnunet_ima.evaluation.summary import summarise
from nnunet_ima.evaluation.sweep import Sweep, sweep, target_of
from nnunet_ima.nnunet.ranks import gathered, rank
from nnunet_ima.segmentation.cases.cases import Cases, PreprocessedCases, RawCases
from nnunet_ima.segmentation.cases.intensities import original_units, unit_name
from nnunet_ima.segmentation.cases.models import TrainedModel, load_predictor
from nnunet_ima.segmentation.cases.patches import Patches
from nnunet_ima.segmentation.cases.slices import Placed, SliceChoice, Slices, choose_cases, held_out_cases
from nnunet_ima.segmentation.cases.volumes import Volumes

SAME_INPUT = ("normalization_schemes", "spacing")
"""In what models agree that can be shown the same preprocessed image."""
SAME_SLICES = ("patch_size", *SAME_INPUT)
UNIT_CASES = 5
"""So many cases tell how many original units one SD is (nnU-Net normalises MRI case by case)."""


@dataclass(frozen=True)
class Choice:
    """What is evaluated. attacks: the first is the main one; vanish: name of a class; images, references: folders of
    other cases than the held-out ones (images alone where nothing is judged); noise_on_padding: slices are padded to
    the patch before they are attacked, not after it. mirroring: what is attacked averages mirrored images, as nnU-Net's
    prediction does. per_pixel: levels are the root mean square per pixel or voxel (SD), so that slices and volumes of
    any size get noise of one size. calibrated: the corruptions have amounts of equal SSIM, by name and severity in
    `amounts`. nested: attacks go up the levels, see `nested.nested`. per_patch: 3D models are attacked on patches, not
    on whole volumes."""

    levels: tuple[float, ...]
    attacks: tuple[str, ...] = ("pgd",)
    corruptions: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    cases: str = "heldout"
    slices: SliceChoice = "complete"
    batch_size: int = 32
    vanish: str | None = None
    images: Path | None = None
    references: Path | None = None
    noise_on_padding: bool = False
    mirroring: bool = False
    per_pixel: bool = False
    calibrated: bool = False
    amounts: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    nested: bool = False
    per_patch: bool = False

    def told(self) -> dict[str, Any]:
        """As JSON, for who wants to repeat it."""
        paths = {"images": str(self.images or "") or None, "references": str(self.references or "") or None}
        # The amounts stand beside the figures of each corruption.
        return {key: value for key, value in (asdict(self) | paths).items() if key != "amounts"}


@dataclass(frozen=True)
class Subject:
    """A model with all that is needed to attack it. surrogate: the model that noise is transferred from."""

    model: TrainedModel
    predictor: Any
    target: Target
    cases: Cases
    slices: Slices
    classes: list[str]
    settings: Settings
    surrogate: TrainedModel | None = None

    def seeds(self, slices: Sequence[Placed]) -> list[str]:
        """What the random numbers of each slice come from."""
        return [f"{self.settings.seed} {item.case} {item.number}" for item in slices]


def join_ranks() -> None:
    """Under torchrun: join the other processes. Only figures are exchanged, so gloo serves every device."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        # A rank may wait for as long as another one attacks.
        dist.init_process_group("gloo", timeout=timedelta(days=7))


def rank_device(name: str) -> torch.device:
    """The device of this process: one GPU each, which is the current one from now on (what asks for "cuda" gets it)."""
    if name != "cuda":
        return torch.device(name)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def prepare(
    model: TrainedModel,
    choice: Choice,
    preprocessed: Path | None,
    device: torch.device,
    surrogate: TrainedModel | None = None,
) -> Subject:
    """Load the model and see which slices there are. UserError where there are none, or the surrogate does not fit."""
    predictor = load_predictor(model, device)
    cases, names = _cases(model, predictor, choice, preprocessed)
    kind = Slices if model.is_2d else Patches if choice.per_patch else Volumes
    slices = kind(predictor, cases, names, choice.slices, choice.noise_on_padding)
    if not len(slices):
        raise UserError(
            f"{model}: no {kind.unit} of the {len(names)} cases qualifies; choose others with --slices, --cases."
        )
    classes = class_names(predictor)
    settings = choice.settings
    if choice.vanish is not None:
        if choice.vanish not in classes:
            raise UserError(f"--vanish {choice.vanish}: the model has no such class, only {', '.join(classes)}.")
        settings = replace(settings, vanish=classes.index(choice.vanish))
    if "frequency" in choice.attacks:
        _check_band(slices.places, settings.band)
    other = None
    if surrogate is not None:
        other = load_predictor(surrogate, device)
        check_fits(model, predictor, surrogate, other, "--transfer-from", SAME_SLICES)
        settings = replace(settings, surrogate=file_digest(surrogate.checkpoint_file))
    target = target_of(predictor, other, choice.mirroring)
    return Subject(model, predictor, target, cases, slices, classes, settings, surrogate)


def _cases(model: TrainedModel, predictor: Any, choice: Choice, preprocessed: Path | None) -> tuple[Cases, list[str]]:
    if choice.images is not None:
        raw = RawCases(predictor, choice.images, choice.references)
        return raw, raw.names if choice.cases == "heldout" else choose_cases(raw.names, choice.cases)
    assert preprocessed is not None
    identifier = predictor.configuration_manager.data_identifier
    held_out = held_out_cases(preprocessed / model.dataset, identifier, model.fold)
    names = choose_cases(held_out, choice.cases)
    return PreprocessedCases(preprocessed / model.dataset / identifier, names, predictor.dataset_json), names


def _check_band(places: Sequence[Placed], band: Band) -> None:
    """An attack that has no frequency to use would leave every slice as it is: a model would look robust."""
    smallest = min((place.shape for place in places), key=lambda shape: max(shape[1:]))
    if not in_band(smallest[1:], band).any():
        raise UserError(
            f"--band {band[0]:g},{band[1]:g} holds no frequency of a slice of {' x '.join(map(str, smallest[1:]))} "
            f"pixels: widen it to at least 1/{max(smallest[1:])}."
        )


def check_fits(
    model: TrainedModel, predictor: Any, other: TrainedModel, loaded: Any, flag: str, alike: Sequence[str]
) -> None:
    """UserError where another model's configuration differs in one of the names `alike`, or its labels differ."""
    for name in alike:
        ours, theirs = (str(getattr(one.configuration_manager, name)) for one in (predictor, loaded))
        if ours != theirs:
            raise UserError(
                f"{flag}: {other} has the {name.replace('_', ' ')} {theirs}, {model} has {ours}; what one is given "
                "does not fit the other, choose a model of the same configuration."
            )
    if predictor.label_manager.has_regions != loaded.label_manager.has_regions or (
        predictor.dataset_json["labels"] != loaded.dataset_json["labels"]
    ):
        raise UserError(f"{flag}: {other} has other labels than {model}; choose another model.")


def class_names(predictor: Any) -> list[str]:
    """Names of the foreground classes or regions, in the order of the counts."""
    labels = predictor.label_manager
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    named = {_key(value): name for name, value in predictor.dataset_json["labels"].items()}
    return [named.get(_key(label), str(label)) for label in foreground]


def _key(label: Any) -> tuple[int, ...]:
    """A label or a region of several, as integers: nnU-Net gives numpy's, dataset.json plain ones."""
    return tuple(int(part) for part in label) if isinstance(label, tuple | list) else (int(label),)


def by_protocol(noise: Noise, choice: Choice, levels: Sequence[float]) -> Noise:
    """An attack with levels as they are chosen: one going on from the other, or per pixel."""
    noise = nested(noise, levels) if choice.nested else noise
    return told_per_pixel(noise) if choice.per_pixel else noise


def plan(choice: Choice, settings: Settings) -> list[tuple[Noise, list[float]]]:
    """Every noise with its levels: the attacks, random noise of their norm, then the corruptions by severity."""
    levels = sorted({0.0, *choice.levels})
    attacks = [by_protocol(attack(name, settings), choice, levels) for name in choice.attacks]
    random = random_noise(settings)
    noises = [*attacks, told_per_pixel(random) if choice.per_pixel else random]
    made = [corruption(name, settings.seed, choice.amounts.get(name)) for name in choice.corruptions]
    return [
        *((noise, levels) for noise in noises),
        *((noise, [0.0, *map(float, noise.settings.get("severities", SEVERITIES))]) for noise in made),
    ]


def open_journal(
    subject: Subject, choice: Choice, folder: Path, overwrite: bool, also: Mapping[str, str] | None = None
) -> Journal:
    """The journal of the run in `folder`; every rank has read it before any of them writes. also: what else its
    records have in common."""
    identity = {
        "model": "+".join(file_digest(file)[:12] for file in subject.model.checkpoint_files),
        "slices": f"{len(subject.slices)} ({subject.slices.digest})",
        "noise on": "padding, too" if choice.noise_on_padding else "the image",
        "batch size": str(choice.batch_size),
        "seed": str(choice.settings.seed),
        "device": next(subject.predictor.network.parameters()).device.type,
        "nnunet-ima": nnunet_ima.__version__,
    }
    if choice.mirroring:
        identity["mirroring"] = "yes"
    journal = Journal(folder, identity | dict(also or {}), rank(), overwrite)
    gathered(None)
    return journal


def evaluate(subject: Subject, choice: Choice, journal: Journal, keep: Any = None) -> tuple[dict[str, Any], Sweep]:
    """The figures of one model, and what was counted."""
    noises = plan(choice, subject.settings)
    slices, configuration = subject.slices, subject.predictor.configuration_manager
    found = sweep(
        subject.target, slices.places, noises, choice.batch_size, choice.settings.seed, journal, keep, read=slices.read
    )
    pixels = float(np.median([math.prod(place.shape) for place in slices.places]))
    summary = summarise(
        subject.model, found, subject.classes, pixels, _units(subject), unit_name(configuration), slices.unit
    )
    summary["checkpoint_sha256"] = "+".join(file_digest(file) for file in subject.model.checkpoint_files)
    if subject.surrogate is not None:
        summary["transfer_from"] = subject.surrogate.told() | {"checkpoint_sha256": subject.settings.surrogate}
    return summary, found


def _units(subject: Subject) -> float:
    """Original units per SD: the median over channels and some cases."""
    plans, configuration = subject.predictor.plans_manager, subject.predictor.configuration_manager
    cases = sorted({item.case for item in subject.slices.places})[:UNIT_CASES]
    found = [
        value
        for case in cases
        for value in original_units(plans, configuration, subject.cases.images(case), subject.cases.reference(case))
    ]
    found = [value for value in found if np.isfinite(value)]
    return float(np.median(found)) if found else float("nan")


def repeatable(choice: Choice, command: Sequence[str]) -> dict[str, Any]:
    """The settings that repeat a run."""
    return {"command": " ".join(command), **choice.told()}


def circumstances(device: torch.device, seconds: float) -> dict[str, Any]:
    """When, where and how long: what differs when a run is repeated."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": f"{device.type} ({name})",
        "seconds": round(seconds, 1),
    }
