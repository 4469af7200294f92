"""Reading a model's weights, and writing other weights as a model folder for stock nnU-Net."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.errors import UserError
from nnunet_ima.nnunet.export import DESCRIPTION, new_folder, stock_checkpoint
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.segmentation.cases.models import TrainedModel


def read_plain(file: Path, model: TrainedModel, dataset_json: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in nnU-Net's checkpoint `file`. UserError where it is missing, damaged, or of other labels than the
    model."""
    if not file.is_file():
        raise UserError(f"--plain {file} does not exist: give the checkpoint that {model} was hardened from.")
    check_checkpoint(file)
    content = torch.load(file, map_location="cpu", weights_only=False)
    if "network_weights" not in content:
        raise UserError(f"--plain {file} holds no network of nnU-Net: give a checkpoint_final.pth.")
    theirs = content.get("init_args", {}).get("dataset_json", {}).get("labels")
    if theirs is not None and theirs != dataset_json["labels"]:
        raise UserError(f"--plain {file} has other labels than {model}: give the checkpoint it was hardened from.")
    weights: dict[str, Tensor] = content["network_weights"]
    return weights


def write_mix(model: TrainedModel, weights: dict[str, Tensor], target: Path) -> None:
    """A new folder `target` with the model's plans and these weights, which stock nnU-Net predicts with. Nothing is
    left there if anything fails."""
    with new_folder(target) as folder:
        (folder / f"fold_{model.fold}").mkdir()
        for name in DESCRIPTION:
            if (model.folder / name).is_file():
                shutil.copy(model.folder / name, folder)
        content = stock_checkpoint(model.checkpoint_file) | {"network_weights": weights}
        # Of a training that these weights have not had.
        content |= {"optimizer_state": None, "grad_scaler_state": None}
        torch.save(content, folder / f"fold_{model.fold}" / "checkpoint_final.pth")
