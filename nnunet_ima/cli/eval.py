"""`nnunet-ima-eval`: how fast Dice falls under attack, per trained model."""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import device_name, nnunet_folder, run
from nnunet_ima.cli.corruptions import check_installed, chosen_corruptions
from nnunet_ima.cli.eval_flags import parser
from nnunet_ima.cli.eval_models import chosen_models, surrogates_of
from nnunet_ima.errors import UserError
from nnunet_ima.files import check_writable


def evaluate(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    results = nnunet_folder("nnUNet_results")
    preprocessed = None if args.i or args.ensemble else nnunet_folder("nnUNet_preprocessed")
    args.device = device_name(args.device)
    args.levels = args.noise or args.rms
    _check(args)

    from nnunet_ima.evaluation.evaluate import join_ranks, rank_device
    from nnunet_ima.nnunet.ranks import rank

    models = chosen_models(args, results)
    _check_dimensions(models, args)
    args.corruptions, args.amounts = chosen_corruptions(args.corruptions, models), None
    surrogates = [surrogates_of(model, models, args, results) for model in models]
    together = args.o or (results / models[0].dataset / _folder(args) if len(models) > 1 else None)
    for folder in [*(_own_folder(model, args) for model in models), *([together] if together else [])]:
        check_writable(folder)
    join_ranks()
    if rank() == 0:
        print("Evaluating:", *models, sep="\n  ", flush=True)
    evaluated = [
        _evaluate(model, found, preprocessed, rank_device(args.device), args)
        for model, found in zip(models, surrogates, strict=True)
    ]
    if rank() == 0:
        _finish(evaluated, together, args)


def _check(args: argparse.Namespace) -> None:
    """UserError for flags that do not go together, and for what is not installed."""
    if (args.i is None) != (args.gt is None):
        raise UserError("-i and -gt go together: images need references, and references images.")
    if ("vanish" in args.attack) != (args.vanish is not None):
        raise UserError("--attack vanish and --vanish CLASS go together: name the class that should disappear.")
    _check_band(args)
    if args.surface is not None and not (args.surface >= 0 and (args.volumes or args.save_volumes)):
        raise UserError(f"--surface {args.surface:g} must be a tolerance of 0 mm or more, together with --volumes.")
    if args.certify is not None and not 0 < args.certify < math.inf:
        raise UserError(f"--certify {args.certify:g} must be above 0: the standard deviation of the noise, in SD.")
    if args.rms and (args.smallest or args.audit):
        raise UserError(
            f"--rms goes without {'--smallest' if args.smallest else '--audit'}, which counts in noise levels: use "
            "--noise."
        )
    if args.smallest and not any(args.noise):
        raise UserError("--smallest searches up to the largest level of --noise: give one above 0.")
    if args.per_structure and not args.smallest:
        raise UserError("--per-structure says what --smallest looks for: give --smallest, too.")
    if args.transfer_from and "transfer" not in args.attack:
        raise UserError(f"--transfer-from {args.transfer_from} is for --attack transfer: add it, or leave this out.")
    if args.calibrated and not args.corruptions:
        raise UserError("--calibrated is for --corruptions: add it, or leave this out.")
    check_installed(args.corruptions)


def _check_dimensions(models: list[Any], args: argparse.Namespace) -> None:
    """UserError for what 3D models cannot be asked, and for slices and volumes that would get noise of two sizes."""
    volumes = [model for model in models if not model.is_2d]
    if args.slices and len(volumes) == len(models):
        raise UserError(f"--slices {args.slices} is for 2D models, of {volumes[0]} whole cases count: leave it out.")
    if args.per == "patch" and len(volumes) < len(models):
        raise UserError("--per patch is for 3D models, a 2D model is attacked slice by slice: leave it out.")
    if args.per == "patch" and (args.volumes or args.save_volumes):
        raise UserError("--per patch gives the voxels of overlapping patches several noises: leave --volumes out.")
    if 0 < len(volumes) < len(models) and not args.rms:
        raise UserError(
            f"--noise would put less noise on the voxels of {volumes[0]} than on the pixels of the 2D models: give "
            "levels per pixel with --rms, or a single configuration with -c."
        )


def _check_band(args: argparse.Namespace) -> None:
    if args.band is not None and "frequency" not in args.attack:
        low, high = args.band
        raise UserError(f"--band {low:g},{high:g} is for --attack frequency: add it, or leave this out.")
    if "frequency" in args.attack and args.norm != "l2":
        raise UserError(
            f"--attack frequency --norm {args.norm}: clipping pixels to that norm would leave the band, give --norm l2."
        )


def _own_folder(model: Any, args: argparse.Namespace) -> Path:
    """Where the files of one model go."""
    folder: Path = args.o / f"{model.folder.name}__{model.fold_name}" if args.o else model.fold_folder / _folder(args)
    return folder


def _folder(args: argparse.Namespace) -> Path:
    """robustness/ for the default attack and norm, folders of their names in it for others."""
    parts = [part for part, usual in ((args.norm, "l2"), (args.attack[0], "pgd")) if part != usual]
    parts += ["rms"] if args.rms else []
    parts += ["patch"] if args.per == "patch" else []
    return Path("robustness", *parts, *(name for name in ("mirroring", "nested") if getattr(args, name)))


def _evaluate(
    model: Any, surrogates: list[Any], preprocessed: Path | None, device: Any, args: argparse.Namespace
) -> Any:
    """As `_evaluate_one`; of folds that are attacked one by one also what they show together."""
    if model.ensemble or len(model.folds) == 1:
        return _evaluate_one(model, surrogates[0], preprocessed, device, args)

    from nnunet_ima.evaluation.pooled import pooled
    from nnunet_ima.evaluation.summary import number

    parts = [
        _evaluate_one(model.of_fold(fold), surrogate, preprocessed, device, args)
        for fold, surrogate in zip(model.folds, surrogates, strict=True)
    ]
    if parts[0] is None:
        return None
    classes, summaries, sweeps, shown, _ = zip(*parts, strict=True)
    summary, found = pooled(model, summaries, sweeps)
    # The slices of the fold that the attack harms most.
    worst = min(range(len(parts)), key=lambda row: sum(number(level["adi"]) for level in summaries[row]["levels"]))
    evaluated = (classes[0], summary, found, shown[worst], None)
    _write([evaluated], _content([evaluated], args), _own_folder(model, args))
    return evaluated


def _evaluate_one(model: Any, surrogate: Any, preprocessed: Path | None, device: Any, args: argparse.Namespace) -> Any:
    """(classes, summary, sweep, pictures, margins) of a model, its own files written; None on ranks other than 0."""
    from nnunet_ima.evaluation.audit import audit
    from nnunet_ima.evaluation.calibration import add_ssim, calibrate
    from nnunet_ima.evaluation.certify import certify, most_pixels, reachable
    from nnunet_ima.evaluation.evaluate import evaluate, open_journal, plan, prepare
    from nnunet_ima.evaluation.smallest import smallest_noises
    from nnunet_ima.evaluation.strong_sample import is_wanted, strong_sample
    from nnunet_ima.evaluation.volumes import KeptNoise, predict_volumes
    from nnunet_ima.nnunet.ranks import rank
    from nnunet_ima.report.pictures import margins_picture, pictures
    from nnunet_ima.segmentation.cases.slices import PLURALS

    choice, own = _choice(args, model.is_2d), _own_folder(model, args)
    subject = prepare(model, choice, preprocessed, device, surrogate)
    if args.certify is not None:
        # Before hours of attacks.
        reachable(args.certify_samples, most_pixels(subject))
    if rank() == 0:
        samples = PLURALS[subject.slices.unit]
        print(f"{model}: {len(subject.slices)} {samples} of {len(subject.cases.names)} cases", flush=True)
    wanted = args.volumes or args.save_volumes
    journal = open_journal(subject, choice, own, args.overwrite)
    if args.calibrated:
        # The first model and fold say for all of them: they are compared under the same noise.
        args.amounts = args.amounts or calibrate(subject, choice, journal)
        choice = _choice(args, model.is_2d)
    keep = KeptNoise(journal, plan(choice, subject.settings)[0][0]) if wanted else None
    summary, found = evaluate(subject, choice, journal, keep)
    if is_wanted(choice):
        summary["strong_sample"] = strong_sample(subject, choice, found, journal)
    if args.certify is not None:
        summary["certified"] = certify(subject, choice, args.certify, args.certify_samples, journal)
    if args.smallest:
        summary["smallest"] = smallest_noises(subject, choice, journal, args.per_structure)
    if rank() > 0:
        return None
    add_ssim(summary, subject, choice)
    if args.audit:
        summary["audit"] = audit(subject, found, choice.batch_size)
    if keep is not None:
        summary["volumes"] = predict_volumes(subject, found, keep, own / "volumes", args.save_volumes, args.surface)
    # Not the subject: of several models only one at a time is in memory.
    evaluated = (subject.classes, summary, found, pictures(subject, found), margins_picture(model.fold_folder))
    _write([evaluated], _content([evaluated], args), own)
    return evaluated


def _choice(args: argparse.Namespace, slices: bool = True) -> Any:
    """slices: whether the samples are, or else volumes, which are attacked one at a time."""
    from nnunet_ima.evaluation.evaluate import Choice
    from nnunet_ima.evaluation.noises import Settings

    names = ("norm", "steps", "restarts", "strong_steps", "queries", "spsa_samples", "spsa_steps", "seed")
    settings = replace(Settings(), **{name: getattr(args, name) for name in names})
    if args.band is not None:
        settings = replace(settings, band=args.band)
    return Choice(
        tuple(args.levels),
        args.attack,
        args.corruptions,
        settings,
        args.cases,
        args.slices or "complete",
        args.batch_size or (32 if slices else 2 if args.per == "patch" else 1),
        args.vanish,
        args.i,
        args.gt,
        args.noise_on_padding,
        args.mirroring,
        args.rms is not None,
        args.calibrated,
        args.amounts or {},
        args.nested,
        args.per == "patch",
    )


def _content(evaluated: list[Any], args: argparse.Namespace) -> Any:
    """What `results.json` and the report of these models hold."""
    from nnunet_ima.evaluation.evaluate import circumstances, rank_device, repeatable
    from nnunet_ima.report.tables import results

    _, summaries, sweeps, _, _ = zip(*evaluated, strict=True)
    seconds = sum(found.seconds for found in sweeps)
    command = ["nnunet-ima-eval", *sys.argv[1:]]
    settings = repeatable(_choice(args, summaries[0]["sample"] == "slice"), command)
    return results(summaries, settings, circumstances(rank_device(args.device), seconds))


def _write(evaluated: list[Any], content: Any, folder: Path) -> None:
    """results.json, slices.csv (of a single model), the curves and the report."""
    from nnunet_ima.evaluation.smallest import write_smallest
    from nnunet_ima.report.segmentation import write_report
    from nnunet_ima.report.tables import write_results, write_samples

    classes, _, sweeps, shown, margins = zip(*evaluated, strict=True)
    write_results(folder, content)
    if len(evaluated) == 1:
        write_samples(folder, sweeps[0], classes[0], content["models"][0]["sample"])
        if "smallest" in content["models"][0]:
            write_smallest(folder, content["models"][0]["smallest"])
    write_report(folder, content, shown, margins)


def _finish(evaluated: list[Any], together: Path | None, args: argparse.Namespace) -> None:
    from nnunet_ima.report.answer import answer
    from nnunet_ima.report.tables import audit_lines, table

    content = _content(evaluated, args)
    summaries = content["models"]
    print(table(summaries))
    print(*audit_lines(summaries), sep="\n")
    print("", *answer(content), sep="\n")
    if together is not None:
        _write(evaluated, content, together)
        print(f"\nThe comparison is in {together / 'report.html'}.")
    print(f"\nA model's own report is in {_folder(args)}/ in its fold's folder." if args.o is None else "")


def main() -> None:
    run(evaluate)


if __name__ == "__main__":
    main()
