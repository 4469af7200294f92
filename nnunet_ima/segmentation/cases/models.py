"""Trained nnU-Net models in the results folder: finding them by nnU-Net's folder names, and loading them."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ima.errors import UserError, first_line
from nnunet_ima.nnunet.plans import is_2d, read_plans
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.nnunet.trainer_search import make_trainers_findable


@dataclass(frozen=True)
class TrainedModel:
    """One trained fold: `folder` is nnU-Net's {trainer}__{plans}__{configuration}."""

    folder: Path
    fold: str
    checkpoint: str

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
    def fold_folder(self) -> Path:
        return self.folder / f"fold_{self.fold}"

    @property
    def checkpoint_file(self) -> Path:
        return self.fold_folder / self.checkpoint

    def told(self) -> dict[str, str]:
        """What names it, as JSON."""
        names = ("dataset", "trainer", "plans", "configuration", "fold", "checkpoint")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return f"{self.dataset} {self.folder.name} fold {self.fold} {self.checkpoint}"


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
        if configuration in (None, model.configuration)
        and plans in (None, model.plans)
        and (trainers is None or model.trainer in trainers)
        and fold in (None, model.fold)
        and (configuration is not None or model.is_2d)
    ]
    if not fits:
        wanted = {"-d": dataset, "-c": configuration, "-f": fold, "-tr": ",".join(trainers or []), "-p": plans}
        chosen = " ".join(f"{flag} {value}" for flag, value in wanted.items() if value)
        raise UserError(
            f"No trained 2D model with a {checkpoint} for {chosen or 'any data set'} in nnUNet_results ({results}): "
            "train one with nnUNetv2_train, or choose another with -d, -c, -f, -tr, -p or -chk."
        )
    newest = max(fits, key=lambda model: model.checkpoint_file.stat().st_mtime)
    return sorted((model for model in fits if model.dataset == newest.dataset and model.fold == newest.fold), key=str)


def load_predictor(model: TrainedModel, device: torch.device) -> Any:
    """nnU-Net's own predictor with the model's weights, network on `device` in eval mode, one output."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    if not model.is_2d:
        raise UserError(f"{model}: only plain 2D configurations can be evaluated; choose one with -c 2d.")
    make_trainers_findable()
    check_checkpoint(model.checkpoint_file)
    fold = model.fold if model.fold == "all" else int(model.fold)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(model.folder), (fold,), model.checkpoint)
    except (RuntimeError, KeyError, FileNotFoundError, EOFError) as error:
        raise UserError(f"{model}: cannot be loaded ({first_line(error)}).") from error
    predictor.network = predictor.network.to(device).eval()
    return predictor
