"""`nnunet-ima-eval`: how fast Dice falls under attack, per trained model."""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import device_name, names_among, nnunet_folder, noise_levels, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.noise_names import ATTACK_NAMES, CORRUPTION_NAMES
from nnunet_ima.files import check_writable


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-eval",
        description="Attacks trained 2D nnU-Net models (by default with PGD) and shows how fast their Dice falls. "
        "Without -d, -c, -f, -tr and -p it compares all models of the data set that was trained last.",
    )
    result.add_argument(
        "--noise",
        type=noise_levels,
        required=True,
        metavar="5,15,25",
        help="noise levels: norm of the noise on a slice (L2, or --norm linf), in normalised intensities (SD); level "
        "0, no noise, is always included",
    )
    _add_models(result.add_argument_group("which models"))
    _add_cases(result.add_argument_group("which slices"))
    _add_noises(result.add_argument_group("which noise"))
    _add_output(result.add_argument_group("output"))
    return result


def _add_models(group: Any) -> None:
    group.add_argument("-d", metavar="DATASET", help="[OPTIONAL] data set: D4, 4 or Dataset004_Hippocampus")
    group.add_argument("-c", metavar="CONFIGURATION", help="[OPTIONAL] 2D configuration")
    group.add_argument(
        "-f",
        nargs="+",
        action="extend",
        metavar="FOLD",
        help="[OPTIONAL] fold, 0 to 4 or all, or several like 0,1,2,3,4: each is attacked on the cases that it has not "
        "seen, and the figures are those of all cases together; default: the one trained last",
    )
    group.add_argument(
        "--ensemble",
        action="store_true",
        help="[OPTIONAL] attack the folds together, as nnU-Net predicts with them, on cases that none of them has "
        "seen: those of -i and -gt; default: imagesTs and labelsTs of the data set",
    )
    group.add_argument(
        "--mirroring",
        action="store_true",
        help="[OPTIONAL] attack what nnU-Net predicts with by default: the mean over mirrored images",
    )
    group.add_argument(
        "-tr", metavar="TRAINER", help="[OPTIONAL] trainer, or several separated by commas; default: all trained ones"
    )
    group.add_argument("-p", metavar="PLANS", help="[OPTIONAL] plans identifier; default: all trained ones")
    group.add_argument(
        "-chk",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="[OPTIONAL] checkpoint file; default: checkpoint_final.pth",
    )
    group.add_argument("-device", choices=["cuda", "cpu", "mps"], help="[OPTIONAL] default: cuda, cpu without one")


def _add_cases(group: Any) -> None:
    group.add_argument(
        "--cases",
        default="heldout",
        help="[OPTIONAL] the held-out cases of the fold (heldout, the default), their first third (validation) or "
        "the rest (test), as in the paper; or names of cases separated by commas",
    )
    group.add_argument(
        "-i",
        type=Path,
        metavar="FOLDER",
        help="[OPTIONAL] attack other cases: a folder of raw images named like CASE_0000.nii.gz; needs -gt",
    )
    group.add_argument(
        "-gt", type=Path, metavar="FOLDER", help="[OPTIONAL] folder of their references, named like CASE.nii.gz"
    )
    group.add_argument(
        "--slices",
        default="complete",
        choices=["complete", "foreground", "all"],
        help="[OPTIONAL] which slices count: those that show all classes of their case (complete, the default), "
        "those that show any class (foreground), or all",
    )
    group.add_argument("--batch-size", type=positive, default=32, help="[OPTIONAL] slices per batch; default: 32")


def _add_noises(group: Any) -> None:
    group.add_argument(
        "--attack",
        type=names_among(ATTACK_NAMES),
        default=("pgd",),
        metavar="NAME,...",
        help=f"[OPTIONAL] one or several of {', '.join(ATTACK_NAMES)}; default: pgd; the first is the "
        "main one; if that is not pgd, the files go into a folder of its name",
    )
    group.add_argument(
        "--corruptions",
        type=names_among(CORRUPTION_NAMES, everything=True),
        default=(),
        metavar="NAME,...",
        help="[OPTIONAL] noise from scanners and reconstruction, in five severities: all (those that are installed), "
        f"or some of {', '.join(CORRUPTION_NAMES)}; default: none",
    )
    group.add_argument(
        "--norm",
        choices=["l2", "linf"],
        default="l2",
        help="[OPTIONAL] norm of the noise levels: l2, or linf, the largest change of a pixel; default: l2",
    )
    group.add_argument(
        "--steps", type=positive, default=100, help="[OPTIONAL] gradient steps of an attack; default: 100"
    )
    group.add_argument(
        "--restarts",
        type=positive,
        default=1,
        help="[OPTIONAL] random starts, of which the worst point counts; default: 1",
    )
    group.add_argument(
        "--strong-steps",
        type=positive,
        default=300,
        help="[OPTIONAL] gradient steps for each of the four losses of --attack strong; default: 300",
    )
    group.add_argument(
        "--queries",
        type=positive,
        default=1000,
        help="[OPTIONAL] queries (forwards) per slice of --attack square; default: 1000",
    )
    group.add_argument(
        "--spsa-samples",
        type=positive,
        default=2048,
        help="[OPTIONAL] queries per gradient estimate of --attack spsa; default: 2048",
    )
    group.add_argument("--spsa-steps", type=positive, default=20, help="[OPTIONAL] steps of --attack spsa; default: 20")
    group.add_argument(
        "--vanish", metavar="CLASS", help="[OPTIONAL] name of the class that --attack vanish makes disappear"
    )
    group.add_argument(
        "--transfer-from",
        metavar="TRAINER",
        help="[OPTIONAL] trainer of the model whose noise --attack transfer uses; default: another of the compared "
        "models",
    )
    group.add_argument(
        "--noise-on-padding",
        action="store_true",
        help="[OPTIONAL] also attack the zeros that pad a slice smaller than the patch, as the authors' code does, "
        "for figures beside those of the paper; default: only the image's own pixels",
    )
    group.add_argument("--seed", type=int, default=0, help="[OPTIONAL] seed of all random numbers; default: 0")


def _add_output(group: Any) -> None:
    group.add_argument(
        "--audit", action="store_true", help="[OPTIONAL] check on up to 16 slices whether the attack can be trusted"
    )
    group.add_argument(
        "--smallest",
        action="store_true",
        help="[OPTIONAL] also look for the smallest noise at which each slice fails (a Dice of 60 %% or less), up to "
        "the largest level of --noise",
    )
    group.add_argument(
        "--certify",
        type=float,
        metavar="SIGMA",
        help="[OPTIONAL] also certify the model smoothed by Gaussian noise of this standard deviation (in SD): a Dice "
        "that no noise of a stated norm can take from it",
    )
    group.add_argument(
        "--certify-samples",
        type=positive,
        default=300,
        metavar="N",
        help="[OPTIONAL] answers per slice of --certify; more certify larger norms; default: 300",
    )
    group.add_argument(
        "--volumes",
        action="store_true",
        help="[OPTIONAL] also predict whole cases under attack with nnU-Net's own predictor",
    )
    group.add_argument(
        "--save-volumes",
        action="store_true",
        help="[OPTIONAL] like --volumes, and keep noisy images and predictions for a viewer",
    )
    group.add_argument(
        "--surface",
        type=float,
        metavar="MM",
        help="[OPTIONAL] with --volumes: add NSD at this tolerance in mm, and HD95 in mm",
    )
    group.add_argument(
        "-o", type=Path, metavar="FOLDER", help="[OPTIONAL] write here instead of robustness/ beside each model"
    )
    group.add_argument("--overwrite", action="store_true", help="[OPTIONAL] replace the results of another run")


def evaluate(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    results = nnunet_folder("nnUNet_results")
    preprocessed = None if args.i or args.ensemble else nnunet_folder("nnUNet_preprocessed")
    args.device = device_name(args.device)
    _check(args)

    from nnunet_ima.evaluation.evaluate import join_ranks, rank_device
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.nnunet.ranks import rank
    from nnunet_ima.segmentation.cases.models import find_models

    folds = _folds(args)
    models = find_models(
        results,
        dataset_name(args.d) if args.d else None,
        args.c,
        folds[0] if folds else None,
        args.tr.split(",") if args.tr else None,
        args.p,
        args.chk,
    )
    if args.ensemble or len(folds) > 1:
        models = _several_folds(models, folds, args)
    surrogates = [_surrogates(model, models, args, results) for model in models]
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
    if args.surface is not None and not (args.surface >= 0 and (args.volumes or args.save_volumes)):
        raise UserError(f"--surface {args.surface:g} must be a tolerance of 0 mm or more, together with --volumes.")
    if args.certify is not None and not 0 < args.certify < math.inf:
        raise UserError(f"--certify {args.certify:g} must be above 0: the standard deviation of the noise, in SD.")
    if args.smallest and not any(args.noise):
        raise UserError("--smallest searches up to the largest level of --noise: give one above 0.")
    if args.transfer_from and "transfer" not in args.attack:
        raise UserError(f"--transfer-from {args.transfer_from} is for --attack transfer: add it, or leave this out.")

    from nnunet_ima.evaluation.corruptions import NEED_TORCHIO, available

    if args.corruptions == ("all",):
        args.corruptions = tuple(available())
    missing = [name for name in args.corruptions if name not in available()]
    if missing:
        raise UserError(
            f"--corruptions {','.join(missing)}: {', '.join(NEED_TORCHIO)} need TorchIO; install it with pip install "
            "'nnunet-ima[corruptions]'."
        )


def _folds(args: argparse.Namespace) -> list[str]:
    """`-f 0 1`, `-f 0,1` -> ["0", "1"]; empty without."""
    folds = list(dict.fromkeys(fold for given in args.f or [] for fold in given.split(",") if fold))
    if len(folds) > 1 and "all" in folds:
        raise UserError(f"-f {','.join(folds)}: fold all holds no case out, it stands alone; leave it out.")
    return folds


def _several_folds(models: list[Any], folds: list[str], args: argparse.Namespace) -> list[Any]:
    """The models with these folds, or all that are trained, looked at before anything is attacked. With --ensemble
    also their cases, in -i and -gt."""
    from nnunet_ima.evaluation.pooled import check_folds
    from nnunet_ima.nnunet.plans import read_plans
    from nnunet_ima.segmentation.cases.models import check_same_plans, find_folds, trained_folds

    if args.i and not args.ensemble:
        raise UserError(f"-f {','.join(folds)} with -i: every fold would attack the same cases; add --ensemble.")
    folds = folds or trained_folds(models[0])
    if len(folds) < 2:
        raise UserError(f"--ensemble needs several folds, {models[0]} is one: train more, or name them like -f 0,1.")
    found = find_folds(models, folds, args.ensemble)
    for model in found:
        check_same_plans(model)
        plans = read_plans(model.folder / "plans.json")
        identifier = plans["configurations"][model.configuration]["data_identifier"]
        if args.ensemble:
            _check_ensemble(model, identifier, args)
        else:
            check_folds(model, nnunet_folder("nnUNet_preprocessed"), identifier)
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


def _surrogates(model: Any, models: list[Any], args: argparse.Namespace, results: Path) -> list[Any]:
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


def _own_folder(model: Any, args: argparse.Namespace) -> Path:
    """Where the files of one model go."""
    folder: Path = args.o / f"{model.folder.name}__{model.fold_name}" if args.o else model.fold_folder / _folder(args)
    return folder


def _folder(args: argparse.Namespace) -> Path:
    """robustness/ for the default attack and norm, folders of their names in it for others."""
    parts = [part for part, usual in ((args.norm, "l2"), (args.attack[0], "pgd")) if part != usual]
    return Path("robustness", *parts, *(["mirroring"] if args.mirroring else []))


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
    from nnunet_ima.evaluation.certify import certify, most_pixels, reachable
    from nnunet_ima.evaluation.evaluate import evaluate, open_journal, plan, prepare
    from nnunet_ima.evaluation.smallest import smallest_noises
    from nnunet_ima.evaluation.strong_sample import is_wanted, strong_sample
    from nnunet_ima.evaluation.volumes import KeptNoise, predict_volumes
    from nnunet_ima.nnunet.ranks import rank
    from nnunet_ima.report.pictures import margins_picture, pictures

    choice, own = _choice(args), _own_folder(model, args)
    subject = prepare(model, choice, preprocessed, device, surrogate)
    if args.certify is not None:
        # Before hours of attacks.
        reachable(args.certify_samples, most_pixels(subject))
    if rank() == 0:
        print(f"{model}: {len(subject.slices)} slices of {len(subject.cases.names)} cases", flush=True)
    wanted = args.volumes or args.save_volumes
    journal = open_journal(subject, choice, own, args.overwrite)
    keep = KeptNoise(journal, plan(choice, subject.settings)[0][0]) if wanted else None
    summary, found = evaluate(subject, choice, journal, keep)
    if is_wanted(choice):
        summary["strong_sample"] = strong_sample(subject, choice, found, journal)
    if args.certify is not None:
        summary["certified"] = certify(subject, choice, args.certify, args.certify_samples, journal)
    if args.smallest:
        summary["smallest"] = smallest_noises(subject, choice, journal)
    if rank() > 0:
        return None
    if args.audit:
        summary["audit"] = audit(subject, found, choice.batch_size)
    if keep is not None:
        summary["volumes"] = predict_volumes(subject, found, keep, own / "volumes", args.save_volumes, args.surface)
    # Not the subject: of several models only one at a time is in memory.
    evaluated = (subject.classes, summary, found, pictures(subject, found), margins_picture(model.fold_folder))
    _write([evaluated], _content([evaluated], args), own)
    return evaluated


def _choice(args: argparse.Namespace) -> Any:
    from nnunet_ima.evaluation.evaluate import Choice
    from nnunet_ima.evaluation.noises import Settings

    names = ("norm", "steps", "restarts", "strong_steps", "queries", "spsa_samples", "spsa_steps", "seed")
    settings = replace(Settings(), **{name: getattr(args, name) for name in names})
    return Choice(
        tuple(args.noise),
        args.attack,
        args.corruptions,
        settings,
        args.cases,
        args.slices,
        args.batch_size,
        args.vanish,
        args.i,
        args.gt,
        args.noise_on_padding,
        args.mirroring,
    )


def _content(evaluated: list[Any], args: argparse.Namespace) -> Any:
    """What `results.json` and the report of these models hold."""
    from nnunet_ima.evaluation.evaluate import circumstances, rank_device, repeatable
    from nnunet_ima.report.tables import results

    _, summaries, sweeps, _, _ = zip(*evaluated, strict=True)
    seconds = sum(found.seconds for found in sweeps)
    command = ["nnunet-ima-eval", *sys.argv[1:]]
    settings = repeatable(_choice(args), command)
    return results(summaries, settings, circumstances(rank_device(args.device), seconds))


def _write(evaluated: list[Any], content: Any, folder: Path) -> None:
    """results.json, slices.csv (of a single model), the curves and the report."""
    from nnunet_ima.evaluation.smallest import write_smallest
    from nnunet_ima.report.segmentation import write_report
    from nnunet_ima.report.tables import write_results, write_slices

    classes, _, sweeps, shown, margins = zip(*evaluated, strict=True)
    write_results(folder, content)
    if len(evaluated) == 1:
        write_slices(folder, sweeps[0], classes[0])
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
