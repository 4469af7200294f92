"""`nnunet-ima-check-predictions`: which of a model's predictions a human should look at first, without references."""

import argparse
import math
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from nnunet_ima.cli.check_predictions_flags import SCORE_NAMES, parser
from nnunet_ima.cli.check_predictions_models import (
    Models,
    check_no_leak,
    chosen_models,
    image_folders,
    preprocessed_folder,
)
from nnunet_ima.cli.common import device_name, run
from nnunet_ima.cli.corruptions import check_installed, chosen_corruptions
from nnunet_ima.errors import UserError
from nnunet_ima.files import check_writable


def check_predictions(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    _check(args)
    args.device = device_name(args.device)
    models = chosen_models(args)
    args.corruptions = chosen_corruptions(args.corruptions, [models.checked])
    image_folders(args, models.checked)
    left_out = _left_out(args, len(models.checked.folds) + len(models.members))
    preprocessed = preprocessed_folder(args)
    check_no_leak(args, preprocessed, models)
    check_writable(args.o)
    _checked(args, models, preprocessed, left_out)


def _check(args: argparse.Namespace) -> None:
    """UserError for flags that do not go together, and for what is not installed."""
    if args.gt is not None and args.i is None:
        raise UserError(f"-gt {args.gt} needs the images of these references: name their folder with -i.")
    if not 0 < args.largest < math.inf:
        raise UserError(f"--largest {args.largest:g} must be above 0 and finite: a noise level in SD, like 25.")
    if args.corruptions and args.i is not None and args.gt is None:
        raise UserError(
            f"--corruptions {','.join(args.corruptions)} judges the scores, which needs references: add -gt, or leave "
            "it out."
        )
    check_installed(args.corruptions)


def _left_out(args: argparse.Namespace, members: int) -> dict[str, str]:
    """By the score that these models do not give, a sentence that says what it needs; fills in --by. UserError where no
    score is left."""
    needs = {
        "pairwise_dice": (members < 2, "name two folds or more with -f 0,1, or other models with --members"),
        "plain_dice": (args.plain is None, "name the checkpoint of a plain model with --plain"),
        "smallest_noise": (args.no_smallest, "leave --no-smallest out"),
    }
    left_out = {name: f"{name} is left out: to have it, {need}." for name, (missing, need) in needs.items() if missing}
    there = [name for name in SCORE_NAMES if name not in left_out]
    if not there:
        raise UserError(
            "--no-smallest leaves no score to order the cases by: leave it out, or give --members or --plain."
        )
    if args.by in left_out:
        raise UserError(f"--by {args.by}: there is no such score with these models; {needs[args.by][1]}.")
    args.by = args.by or there[0]
    return left_out


def _checked(args: argparse.Namespace, models: Models, preprocessed: Path | None, left_out: dict[str, str]) -> None:
    from nnunet_ima.evaluation.check_predictions import CLEAN, check, judgements
    from nnunet_ima.evaluation.evaluate import open_journal, prepare, rank_device
    from nnunet_ima.evaluation.panel import panel_of
    from nnunet_ima.evaluation.unreferenced import Search
    from nnunet_ima.report.predictions import answer, table, write

    started, choice = perf_counter(), _choice(args)
    subject = prepare(models.checked, choice, preprocessed, rank_device(args.device))
    panel = panel_of(subject, models.members, models.plain, args.mirroring)
    search = None if args.no_smallest else Search(args.largest, args.per_case, args.steps, args.seed)
    journal = open_journal(subject, choice, args.o, args.overwrite, _also(models, search))
    judge = args.i is None or args.gt is not None
    conditions = [CLEAN, *((name, int(severity)) for name in args.corruptions for severity in args.severities)]
    print(f"{models.checked}: {len({place.case for place in subject.slices.places})} cases", flush=True)
    rows = check(subject, panel, conditions, args.batch_size, search, judge, journal)
    judged = judgements(rows, args.seed)
    sentences = answer(rows, judged, args.by, list(left_out.values()))
    scores = [name for name in SCORE_NAMES if name not in left_out]
    write(
        args.o, rows, _content(args, models, perf_counter() - started, answer=sentences, scores=scores, judged=judged)
    )
    print(*(table(judged) if judged else []), "", *sentences, "", sep="\n")
    print(f"The order is in {args.o / 'cases.csv'}, the report in {args.o / 'report.html'}.")


def _choice(args: argparse.Namespace) -> Any:
    from nnunet_ima.evaluation.evaluate import Choice
    from nnunet_ima.evaluation.noises import Settings

    settings = Settings(steps=args.steps, seed=args.seed)
    return Choice(
        (),
        (),
        args.corruptions,
        settings,
        args.cases,
        "all",
        args.batch_size,
        images=args.i,
        references=args.gt,
        mirroring=args.mirroring,
    )


def _also(models: Models, search: Any) -> dict[str, str]:
    """What else the records of a journal have in common."""
    from nnunet_ima.evaluation.journal import file_digest

    digests = {
        name: "+".join(file_digest(file)[:12] for one in beside for file in one.checkpoint_files) or "none"
        for name, beside in (("members", models.members), ("plain", [models.plain] if models.plain else []))
    }
    return {**digests, "smallest noise": str(search)}


def _content(args: argparse.Namespace, models: Models, seconds: float, **found: Any) -> dict[str, Any]:
    """What `scores.json` and the report hold."""
    from nnunet_ima.evaluation.evaluate import circumstances, rank_device, repeatable

    told = {name: getattr(args, name) for name in ("by", "largest", "per_case")} | {
        "severities": [int(severity) for severity in args.severities]
    }
    return {
        **found,
        "by": args.by,
        "model": str(models.checked),
        "members": [str(member.checkpoint_file) for member in models.members],
        "plain": str(models.plain.checkpoint_file) if models.plain else None,
        "settings": repeatable(_choice(args), ["nnunet-ima-check-predictions", *sys.argv[1:]]) | told,
        "run": circumstances(rank_device(args.device), seconds),
    }


def main() -> None:
    run(check_predictions)


if __name__ == "__main__":
    main()
