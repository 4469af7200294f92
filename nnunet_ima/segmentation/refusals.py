"""What a training refuses at the door, before nnU-Net creates folders: one sentence each."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from torch import nn

from nnunet_ima.errors import UserError, first_line
from nnunet_ima.files import remove_leftovers
from nnunet_ima.nnunet.plans import configuration


@contextmanager
def one_sentence() -> Iterator[None]:
    """A user's mistake ends `nnUNetv2_train` with one sentence and exit code 1 instead of a traceback."""
    try:
        yield
    except UserError as error:
        raise SystemExit(str(error)) from error


def check_device(device: torch.device) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda: this machine has no usable CUDA device; train with -device cpu.")


def check_configuration(plans: dict[str, Any], name: str, trainer: str) -> None:
    """The second stage of a cascade is refused."""
    previous = configuration(plans, name).get("previous_stage")
    if previous:
        raise UserError(
            f"Configuration {name}: {trainer} does not train the second stage of a cascade, whose input is partly the "
            f"segmentation of the first and not an image; train {previous} or 3d_fullres."
        )


def check_dataset(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    """nnU-Net goes by the data set named in the plans: a copied plans file would train on the other's images."""
    if not nnUNet_preprocessed.is_set():
        return
    file = Path(str(nnUNet_preprocessed)) / str(plans["dataset_name"]) / "dataset.json"
    if not file.is_file() or json.loads(file.read_text()) != dataset_json:
        raise UserError(
            f"The plans {plans['plans_name']} are those of {plans['dataset_name']}, which is not the data set to train "
            "on: plan this one with nnUNetv2_plan_and_preprocess, or take plans over with "
            "nnUNetv2_move_plans_between_datasets."
        )


def check_ranks_in_step(network: nn.Module, label: str) -> None:
    """On several GPUs nnU-Net turns batch normalisation into one that waits in each pass for all of them; a GPU without
    noisy slices makes no pass over them, and the others would wait forever."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise UserError(
            f"{label} cannot train a network with batch normalisation on several GPUs, which would wait for each other "
            "in passes that not all of them make: use one GPU (-num_gpus 1), or instance normalisation in the plans."
        )


def check_results_folder() -> None:
    """nnU-Net's results folder, or the nearest that exists above it, can be written to."""
    if not nnUNet_results.is_set():
        raise UserError("The environment variable nnUNet_results is not set: set it to the folder for trained models.")
    results = str(nnUNet_results)
    existing = Path(results)
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise UserError(f"nnUNet_results is {results}, where nothing can be written: name another folder.")


@contextmanager
def readable_checkpoint(name: Any) -> Iterator[None]:
    """What torch and nnU-Net raise over a damaged checkpoint, or one of another network, as one sentence."""
    try:
        yield
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{name} is damaged or belongs to another network ({first_line(error)}): remove it, and --c "
            "continues from the next best checkpoint in the folder."
        ) from error


def lock_fold(folder: Path) -> FileLock:
    """The lock of a fold's output folder, held until it is released or this process ends, however it ends.

    What a killed training left half-written there is removed.
    UserError if another training holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".training.lock", timeout=0)
        lock.acquire()
        remove_leftovers(folder)
    except Timeout as error:
        raise UserError(
            f"Another training is writing to {folder}: wait for its end, stop it, or train under other plans (-p)."
        ) from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): check its permissions.") from error
    return lock
