"""Which model and cases `nnunet-ima-check-predictions` looks at, and which models beside it; no case that one of them
was trained on."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import nnunet_folder
from nnunet_ima.cli.eval_models import named_folds
from nnunet_ima.errors import UserError


@dataclass(frozen=True)
class Models:
    """checked: whose predictions; members: of the ensemble beside its folds; plain: None without. All are
    `TrainedModel`s."""

    checked: Any
    members: list[Any]
    plain: Any

    def __iter__(self) -> Iterator[Any]:
        yield from (self.checked, *self.members, *([self.plain] if self.plain else []))


def chosen_models(args: argparse.Namespace) -> Models:
    """Those of the flags. UserError for one that is given twice: it would agree with itself."""
    from nnunet_ima.segmentation.cases.models import model_of

    checked = _checked_model(args)
    seen = {file.resolve() for file in checked.checkpoint_files}
    if args.plain is not None and args.plain.resolve() in seen:
        raise UserError(f"--plain {args.plain} is the model that is checked: give another one.")
    for file in args.members:
        if file.resolve() in seen:
            raise UserError(f"--members {file} counts already: give each model once.")
        seen.add(file.resolve())
    plain = None if args.plain is None else model_of(args.plain, "--plain")
    return Models(checked, [model_of(file, "--members") for file in args.members], plain)


def _checked_model(args: argparse.Namespace) -> Any:
    """The newest model that fits -d, -c, -tr, -p, -chk and the first of -f, with all of these folds together."""
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.segmentation.cases.models import check_same_plans, find_folds, find_models

    folds = named_folds(args.f)
    found = find_models(
        nnunet_folder("nnUNet_results"),
        dataset_name(args.d),
        args.c,
        folds[0] if folds else None,
        args.tr.split(",") if args.tr else None,
        args.p,
        args.chk,
    )
    model = max(found, key=lambda one: one.checkpoint_file.stat().st_mtime)
    if len(folds) > 1:
        (model,) = find_folds([model], folds, True)
        check_same_plans(model)
    return model


def image_folders(args: argparse.Namespace, model: Any) -> None:
    """Fills in -i, and -gt where there are references, for folds that have no held-out case in common."""
    if args.i is not None or len(model.folds) == 1:
        return
    raw = nnunet_folder("nnUNet_raw") / model.dataset
    if not (raw / "imagesTs").is_dir():
        raise UserError(
            f"-f {model.fold}: these folds hold out no case in common and {raw} has no imagesTs; give cases with -i."
        )
    args.i = raw / "imagesTs"
    args.gt = raw / "labelsTs" if (raw / "labelsTs").is_dir() else None
    if args.corruptions and args.gt is None:
        raise UserError(
            f"--corruptions {','.join(args.corruptions)} judges the scores, which needs references, and {raw} has no "
            "labelsTs: give cases with -i and -gt, or leave it out."
        )


def preprocessed_folder(args: argparse.Namespace) -> Path | None:
    """nnUNet_preprocessed, None where it is not there and other images than the held-out ones are looked at."""
    try:
        return nnunet_folder("nnUNet_preprocessed")
    except UserError:
        if args.i is None:
            raise
        return None


def check_no_leak(args: argparse.Namespace, preprocessed: Path | None, models: Models) -> None:
    """UserError where a fold was trained on one of the cases: there a model is surer than it is elsewhere."""
    from nnunet_ima.nnunet.plans import read_plans
    from nnunet_ima.segmentation.cases.slices import seen_cases

    names = _names(args, preprocessed, models.checked)
    for one in models:
        plans = read_plans(one.folder / "plans.json")
        identifier = plans["configurations"][one.configuration]["data_identifier"]
        own = None if preprocessed is None else preprocessed / one.dataset
        if own is None or not (own / identifier).is_dir():
            print(f"{one}: without the preprocessed data set nothing tells whether it was trained on these cases.")
            continue
        for fold in one.folds:
            known = seen_cases(own, identifier, fold, names)
            if known:
                raise UserError(
                    f"{one}: fold {fold} was trained on {', '.join(known[:3])}{', ...' if known[3:] else ''}, where it "
                    "is surer than elsewhere; leave it out, or give other cases with -i."
                )


def _names(args: argparse.Namespace, preprocessed: Path | None, model: Any) -> list[str]:
    """Of the cases that will be looked at."""
    from nnunet_ima.nnunet.plans import read_plans
    from nnunet_ima.segmentation.cases.cases import identifiers
    from nnunet_ima.segmentation.cases.slices import choose_cases, held_out_cases

    if args.i is not None:
        found = identifiers(args.i, model.folder / "dataset.json")
        return found if args.cases == "heldout" or not found else choose_cases(found, args.cases)
    assert preprocessed is not None
    plans = read_plans(model.folder / "plans.json")
    identifier = plans["configurations"][model.configuration]["data_identifier"]
    return choose_cases(held_out_cases(preprocessed / model.dataset, identifier, model.fold), args.cases)
