"""Trained nnU-Net models in the results folder: finding them by nnU-Net's folder names, and loading them."""

import copy
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from nnunet_ima.errors import UserError, first_line
from nnunet_ima.nnunet.plans import is_2d, is_second_stage, read_plans
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.nnunet.trainer_search import make_trainers_findable
from nnunet_ima.segmentation.cases.averaged import AveragedNetwork


@dataclass(frozen=True)
class TrainedModel:
    """One trained fold, or several: `folder` is nnU-Net's {trainer}__{plans}__{configuration}.

    fold: 0 to 4 or all, several separated by commas. ensemble: several folds predict together; else each predicts the
    cases that it has not seen.
    """

    folder: Path
    fold: str
    checkpoint: str
    ensemble: bool = False

    @property
    def folds(self) -> list[str]:
        return self.fold.split(",")

    @property
    def dataset(self) -> str:
        return self.folder.parent.name

    @property
    def trainer(self) -> str:
        return self.folder.name.split("__")[0]

    @property
    def plans(self) -> str:
        return self.folder.name.split("__")[1]

    @property
    def configuration(self) -> str:
        return self.folder.name.split("__")[2]

    @property
    def is_2d(self) -> bool:
        return is_2d(read_plans(self.folder / "plans.json"), self.configuration)

    @property
    def fold_name(self) -> str:
        """As in the name of a folder: fold_0, crossval_results_folds_0_1 (nnU-Net's own name), ensemble_folds_0_1."""
        if self.ensemble:
            return f"ensemble_folds_{'_'.join(self.folds)}"
        return f"fold_{self.fold}" if len(self.folds) == 1 else f"crossval_results_folds_{'_'.join(self.folds)}"

    @property
    def fold_folder(self) -> Path:
        return self.folder / self.fold_name

    @property
    def checkpoint_files(self) -> list[Path]:
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    @property
    def checkpoint_file(self) -> Path:
        """Of the only fold, or the first."""
        return self.checkpoint_files[0]

    def of_fold(self, fold: str) -> "TrainedModel":
        """One of its folds alone."""
        return replace(self, fold=fold, ensemble=False)

    def told(self) -> dict[str, str]:
        """What names it, as JSON."""
        names = ("dataset", "trainer", "plans", "configuration", "fold", "checkpoint")
        return {name: getattr(self, name) for name in names} | ({"ensemble": "yes"} if self.ensemble else {})

    def __str__(self) -> str:
        folds = f"fold {self.fold}" if len(self.folds) == 1 else f"folds {', '.join(self.folds)}"
        together = " together" if self.ensemble else ""
        return f"{self.dataset} {self.folder.name} {folds}{together} {self.checkpoint}"


def find_models(
    results: Path,
    dataset: str | None = None,
    configuration: str | None = None,
    fold: str | None = None,
    trainers: Sequence[str] | None = None,
    plans: str | None = None,
    checkpoint: str = "checkpoint_final.pth",
) -> list[TrainedModel]:
    """The trained models in nnUNet_results that fit what is given, sorted by name.

    configuration: one or several separated by commas; without it every 2D one.
    Without a data set: that of the newest checkpoint; without a fold: the fold of the newest among those that fit.
    UserError, with what was looked for, if there is none.
    """
    found = [
        TrainedModel(path.parents[1], path.parent.name.removeprefix("fold_"), checkpoint)
        for path in results.glob(f"{dataset or 'Dataset*'}/*__*__*/fold_*/{checkpoint}")
    ]
    fits = [
        model
        for model in found
        if (configuration is None or model.configuration in configuration.split(","))
        and plans in (None, model.plans)
        and (trainers is None or model.trainer in trainers)
        and fold in (None, model.fold)
        and (configuration is not None or model.is_2d)
    ]
    if not fits:
        wanted = {"-d": dataset, "-c": configuration, "-f": fold, "-tr": ",".join(trainers or []), "-p": plans}
        chosen = " ".join(f"{flag} {value}" for flag, value in wanted.items() if value)
        kind = "2D " if configuration in (None, "2d") else ""
        raise UserError(
            f"No trained {kind}model with a {checkpoint} for {chosen or 'any data set'} in "
            f"nnUNet_results ({results}): train one with nnUNetv2_train, or choose another with -d, -c, -f, -tr, -p or "
            "-chk."
        )
    newest = max(fits, key=lambda model: model.checkpoint_file.stat().st_mtime)
    return sorted((model for model in fits if model.dataset == newest.dataset and model.fold == newest.fold), key=str)


def model_of(checkpoint: Path, flag: str) -> TrainedModel:
    """The model of a checkpoint in nnU-Net's folders. UserError, naming the flag, where it lies elsewhere."""
    folder, fold = checkpoint.absolute().parents[1], checkpoint.absolute().parent.name
    if not checkpoint.is_file():
        raise UserError(f"{flag} {checkpoint} does not exist: give the checkpoint of a trained model.")
    if len(folder.name.split("__")) != 3 or not fold.startswith("fold_") or not (folder / "plans.json").is_file():
        raise UserError(
            f"{flag} {checkpoint} is in no folder of a trained model: give a checkpoint where nnU-Net has written it, "
            "in TRAINER__PLANS__CONFIGURATION/fold_N."
        )
    return TrainedModel(folder, fold.removeprefix("fold_"), checkpoint.name)


def trained_folds(model: TrainedModel) -> list[str]:
    """The numbered folds beside this one that have the same checkpoint."""
    files = model.folder.glob(f"fold_*/{model.checkpoint}")
    return sorted(name for file in files if (name := file.parent.name.removeprefix("fold_")) != "all")


def find_folds(models: Sequence[TrainedModel], folds: Sequence[str], ensemble: bool) -> list[TrainedModel]:
    """The same models with all these folds. UserError where one has not been trained, or under other plans."""
    for model in models:
        missing = [fold for fold in folds if not (model.folder / f"fold_{fold}" / model.checkpoint).is_file()]
        if missing:
            raise UserError(
                f"-f {','.join(folds)}: {model.folder.name} has no {model.checkpoint} of fold {', '.join(missing)}; "
                "train it with nnUNetv2_train, or leave it out."
            )
    return [replace(model, fold=",".join(folds), ensemble=ensemble) for model in models]


def check_same_plans(model: TrainedModel) -> None:
    """UserError where the folds were trained under different plans, as nnU-Net's own predictor would not notice."""
    known: dict[str, Any] = {}
    for fold, file in zip(model.folds, model.checkpoint_files, strict=True):
        check_checkpoint(file)
        saved = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
        plans = saved.get("init_args", {}).get("plans", {}).get("configurations", {}).get(model.configuration, {})
        known[fold] = {key: plans.get(key) for key in ("patch_size", "spacing", "normalization_schemes")}
    first, *others = known.items()
    for fold, plans in others:
        for key, value in plans.items():
            if value != first[1][key]:
                raise UserError(
                    f"-f {model.fold}: fold {fold} of {model.folder.name} was trained with the {key} {value}, fold "
                    f"{first[0]} with {first[1][key]}; train them under the same plans."
                )


def load_averaged(predictor: Any, mirroring: bool) -> nn.Module:
    """The network that `predictor` predicts with: the mean of its folds, and of mirrored images where that is wanted
    and the model was trained for it. A single network without mirroring is itself."""
    axes = tuple(predictor.allowed_mirroring_axes or ()) if mirroring else ()
    network: nn.Module = predictor.network
    if len(predictor.list_of_parameters) == 1:
        return AveragedNetwork([network], axes).eval() if axes else network
    network = network._orig_mod if isinstance(network, OptimizedModule) else network
    members = [copy.deepcopy(network) for _ in predictor.list_of_parameters]
    for member, weights in zip(members, predictor.list_of_parameters, strict=True):
        member.load_state_dict(weights)
    return AveragedNetwork(members, axes).eval()


def load_predictor(model: TrainedModel, device: torch.device) -> Any:
    """nnU-Net's own predictor with the model's weights, network on `device` in eval mode, one output."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if is_second_stage(read_plans(model.folder / "plans.json"), model.configuration):
        raise UserError(
            f"{model}: the second stage of a cascade, whose input is partly a segmentation, cannot be attacked; choose "
            "another configuration with -c."
        )
    make_trainers_findable()
    for file in model.checkpoint_files:
        check_checkpoint(file)
    folds = tuple(fold if fold == "all" else int(fold) for fold in model.folds)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(model.folder), folds, model.checkpoint)
    except (RuntimeError, KeyError, FileNotFoundError, EOFError) as error:
        raise UserError(f"{model}: cannot be loaded ({first_line(error)}).") from error
    predictor.network = predictor.network.to(device).eval()
    return predictor
