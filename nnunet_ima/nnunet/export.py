"""A trained model rewritten for stock nnU-Net."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint

STOCK_TRAINER = "nnUNetTrainer"
OURS = "ima"
DESCRIPTION = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def export_model(model: Path, folds: Sequence[str] | None, checkpoint: str, target: Path) -> list[str]:
    """Write nnU-Net's model folder `model` ({trainer}__{plans}__{configuration}) for nnU-Net alone; the folds written.

    folds: None for every trained one. target: a new folder, or a .zip file with nnU-Net's results layout.
    Nothing is left at `target` if anything fails. UserError for what is missing, damaged or in the way.
    """
    folds = folds or _trained_folds(model, checkpoint)
    check_free(target)
    # Beside the target, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as work:
        _, plans, configuration = model.name.split("__")
        folder = Path(work) / "results" / model.parent.name / f"{STOCK_TRAINER}__{plans}__{configuration}"
        _write_model(model, folds, checkpoint, folder)
        if target.suffix == ".zip":
            Path(shutil.make_archive(str(Path(work) / "model"), "zip", Path(work) / "results")).rename(target)
        else:
            folder.replace(target)
    return list(folds)


def check_free(target: Path) -> None:
    """UserError where a folder, or a zip, cannot be made: something is there, or nothing is around it."""
    if target.exists() and (target.suffix == ".zip" or not target.is_dir() or any(target.iterdir())):
        raise UserError(f"-o {target} exists: give another name, or remove it first.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"-o {target}: the folder {target.parent} does not exist; create it first.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` at the end; nothing is left there if anything fails. UserError where it
    cannot be made."""
    check_free(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as work:
        folder = Path(work) / "new"
        folder.mkdir()
        yield folder
        folder.replace(target)


def _trained_folds(model: Path, checkpoint: str) -> list[str]:
    found = sorted(file.parent.name.removeprefix("fold_") for file in model.glob(f"fold_*/{checkpoint}"))
    if not found:
        raise UserError(f"{model} holds no fold with a {checkpoint}: choose a trained one with -d, -c, -tr, -p, -chk.")
    return found


def _write_model(model: Path, folds: Sequence[str], checkpoint: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in DESCRIPTION:
        if (model / name).is_file():
            shutil.copy(model / name, folder)
        elif name != "dataset_fingerprint.json":
            raise UserError(f"{model / name} is missing: nnU-Net cannot use the model without it; copy it back.")
    for fold in folds:
        content = stock_checkpoint(model / f"fold_{fold}" / checkpoint)
        (folder / f"fold_{fold}").mkdir()
        torch.save(content, folder / f"fold_{fold}" / checkpoint)


def stock_checkpoint(file: Path) -> dict[str, Any]:
    """The checkpoint as nnU-Net's own trainer would have written it: network, optimiser and logs as they are, without
    the margins."""
    check_checkpoint(file)
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    if "network_weights" not in content:
        raise UserError(f"{file} holds no network: choose another with -chk or -f.")
    return {key: value for key, value in content.items() if key != OURS} | {"trainer_name": STOCK_TRAINER}
