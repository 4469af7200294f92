"""Which models `nnunet-ima-eval` attacks: one fold, several, or several together; and whose noise it transfers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import nnunet_folder
from nnunet_ima.errors import UserError


def chosen_models(args: argparse.Namespace, results: Path) -> list[Any]:
    """The trained models that the flags name; with --ensemble also their cases, in -i and -gt. UserError where there
    are none, or folds do not go together."""
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.segmentation.cases.models import find_models

    folds = named_folds(args.f)
    models = find_models(
        results,
        dataset_name(args.d) if args.d else None,
        args.c,
        folds[0] if folds else None,
        args.tr.split(",") if args.tr else None,
        args.p,
        args.chk,
    )
    return _several_folds(models, folds, args) if args.ensemble or len(folds) > 1 else models


def named_folds(told: Sequence[str] | None) -> list[str]:
    """`-f 0 1`, `-f 0,1` -> ["0", "1"]; empty without."""
    folds = list(dict.fromkeys(fold for given in told or [] for fold in given.split(",") if fold))
    if len(folds) > 1 and "all" in folds:
        raise UserError(f"-f {','.join(folds)}: fold all holds no case out, it stands alone; leave it out.")
    return folds


def _several_folds(models: list[Any], folds: list[str], args: argparse.Namespace) -> list[Any]:
    """The models with these folds, or all that are trained, looked at before anything is attacked. With --ensemble
    also their cases, in -i and -gt."""
    from nnunet_ima.evaluation.pooled import check_folds
    from nnunet_ima.nnunet.plans import configuration, read_plans
    from nnunet_ima.segmentation.cases.models import check_same_plans, find_folds, trained_folds

    if args.i and not args.ensemble:
        raise UserError(f"-f {','.join(folds)} with -i: every fold would attack the same cases; add --ensemble.")
    folds = folds or trained_folds(models[0])
    if len(folds) < 2:
        raise UserError(f"--ensemble needs several folds, {models[0]} is one: train more, or name them like -f 0,1.")
    found = find_folds(models, folds, args.ensemble)
    for model in found:
        check_same_plans(model)
        identifier = configuration(read_plans(model.folder / "plans.json"), model.configuration)["data_identifier"]
        if args.ensemble:
            _check_ensemble(model, identifier, args)
        else:
            check_folds(model.folds, nnunet_folder("nnUNet_preprocessed") / model.dataset, identifier)
    return found


def _check_ensemble(model: Any, data_identifier: str, args: argparse.Namespace) -> None:
    """The cases of an ensemble, by default the test cases of its data set. UserError where a fold has seen one."""
    from nnunet_ima.segmentation.cases.cases import identifiers
    from nnunet_ima.segmentation.cases.slices import check_unseen

    if args.i is None:
        raw = nnunet_folder("nnUNet_raw") / model.dataset
        args.i, args.gt = raw / "imagesTs", raw / "labelsTs"
        if not (args.i.is_dir() and args.gt.is_dir()):
            raise UserError(f"--ensemble: {raw} has no imagesTs with labelsTs; give cases with -i and -gt.")
    try:
        preprocessed = nnunet_folder("nnUNet_preprocessed") / model.dataset
    except UserError:
        preprocessed = None
    if preprocessed is None or not (preprocessed / data_identifier).is_dir():
        print(f"{model}: without the preprocessed data set nothing tells whether a fold has seen these cases.")
        return
    check_unseen(preprocessed, data_identifier, model.folds, identifiers(args.i, model.folder / "dataset.json"))


def surrogates_of(model: Any, models: list[Any], args: argparse.Namespace, results: Path) -> list[Any]:
    """Of each fold that is attacked alone the model whose noise is transferred to it, None where none is wanted."""
    if model.ensemble:
        if "transfer" in args.attack:
            raise UserError("--attack transfer is for single folds: leave out --ensemble.")
        return [None]
    return [
        _surrogate(model.of_fold(fold), [one.of_fold(fold) for one in models], args, results) for fold in model.folds
    ]


def _surrogate(model: Any, models: list[Any], args: argparse.Namespace, results: Path) -> Any:
    """The model whose noise is transferred to `model`; None where none is wanted."""
    from nnunet_ima.segmentation.cases.models import find_models

    if "transfer" not in args.attack:
        return None
    found = models
    if args.transfer_from:
        found = find_models(results, model.dataset, model.configuration, model.fold, [args.transfer_from])
    others = [other for other in found if other.folder != model.folder]
    if not others:
        raise UserError(
            f"--attack transfer: there is no other model than {model} to transfer noise from; train one, or name its "
            "trainer with --transfer-from."
        )
    return others[0]
