"""`nnunet-ima-classify train / eval`: the methods and attacks on a classifier of images."""

import argparse
import sys
from dataclasses import fields, replace
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote
from typing import Any

from nnunet_ima.cli.common import add_checkpoint, add_device, device_name, names_among, noise_levels, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.files import check_writable
from nnunet_ima.methods.registry import methods, parse_settings
from nnunet_ima.versions import versions

ATTACKS = ("random", "fgsm", "ifgsm", "pgd", "square", "strong", "ddn", "fmn")
USUAL = ATTACKS[:4]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-classify",
        description="Trains image classifiers (ResNet-18) with or without noise, and attacks them.",
    )
    commands = result.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train a classifier on a folder of class folders"))
    _add_eval(commands.add_parser("eval", help="attack a trained classifier"))
    return result


def _add_train(group: Any) -> None:
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder with a folder of images per class (PNG, JPEG, DICOM, NIfTI)",
    )
    group.add_argument("--output", type=Path, required=True, metavar="RUN", help="the folder of this training")
    group.add_argument(
        "--method",
        default="ima",
        metavar="NAME",
        help=f"[OPTIONAL] {', '.join(methods())}; ce: no noise; adv: fixed noise level; default: ima",
    )
    group.add_argument("--epochs", type=positive, default=40, help="[OPTIONAL] epochs of the training; default: 40")
    group.add_argument(
        "--image-size",
        type=positive,
        default=224,
        help="[OPTIONAL] height and width of the images, in pixels; default: 224",
    )
    group.add_argument(
        "--channels", type=positive, default=1, help="[OPTIONAL] channels of the images; default: 1, grey"
    )
    group.add_argument("--batch-size", type=positive, default=32, help="[OPTIONAL] images per batch; default: 32")
    group.add_argument(
        "--noise-max",
        type=float,
        help="[OPTIONAL] largest margin of ima and mma and noise level of methods with a fixed one: L2 norm over the "
        "image, whose intensities are 0 to 1; default of ima and mma: 30",
    )
    group.add_argument(
        "--margin-step", type=float, help="[OPTIONAL] of ima: growth of a margin per epoch; default: noise-max / epochs"
    )
    group.add_argument("--beta", type=float, help="[OPTIONAL] weight of the noisy loss; default: the method's")
    group.add_argument(
        "--steps", type=positive, help="[OPTIONAL] gradient steps of the attack; default: the method's, 20 for ima"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="[OPTIONAL] another setting of the method, like mail.gamma=5; may be given several times",
    )
    group.add_argument(
        "--budget",
        type=float,
        metavar="FORWARDS",
        help="[OPTIONAL] cost of the whole training in forwards of a batch (a plain step is 3), spent evenly over the "
        "epochs; default: every image once an epoch",
    )
    group.add_argument(
        "--ema",
        type=float,
        default=0.0,
        metavar="DECAY",
        help="[OPTIONAL] validate and save an average of the weights with this decay per step, like 0.999; default: 0, "
        "none",
    )
    group.add_argument(
        "--awp",
        type=float,
        default=0.0,
        metavar="GAMMA",
        help="[OPTIONAL] noise on the weights too, this share of each layer's norm, like 0.005; default: 0, none",
    )
    group.add_argument("--norm", choices=["l2", "linf"], default="l2", help="[OPTIONAL] norm of the noise; default: l2")
    group.add_argument(
        "--optimizer",
        choices=["adam", "adamw", "sgd"],
        help="[OPTIONAL] default: the paper's, adamw for ce, adam for the others",
    )
    group.add_argument("--learning-rate", type=float, help="[OPTIONAL] default: the optimiser's own")
    group.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] your own split: a CSV with the columns file, label, split and, optionally, group (the "
        "patient)",
    )
    group.add_argument("--test", type=positive, help="[OPTIONAL] test images per class; default: 200, or a fifth")
    group.add_argument("--validation", type=positive, help="[OPTIONAL] validation images per class; default: 30")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="[OPTIONAL] seed of the split, the first weights and the order of images; default: 0",
    )
    group.add_argument(
        "--pretrained",
        type=lambda text: str(Path(text).resolve()),
        metavar="FILE",
        help="[OPTIONAL] a checkpoint of another run to start from, to harden its model",
    )
    group.add_argument("--skip-broken", action="store_true", help="[OPTIONAL] leave out images that cannot be read")
    group.add_argument("--c", action="store_true", help="[OPTIONAL] continue an interrupted training")
    add_device(group)


def _add_eval(group: Any) -> None:
    group.add_argument(
        "--model",
        type=Path,
        required=True,
        nargs="+",
        metavar="RUN",
        help="the --output of a training; several are compared",
    )
    group.add_argument("--noise", type=noise_levels, required=True, metavar="1,3,5", help="noise levels; 0 is added")
    group.add_argument("--data", type=Path, metavar="DIR", help="[OPTIONAL] other images than the run's test split")
    group.add_argument(
        "--attack",
        type=names_among(ATTACKS),
        default=USUAL,
        metavar="NAME,...",
        help=f"[OPTIONAL] {', '.join(ATTACKS)}; default: {', '.join(USUAL)}",
    )
    group.add_argument(
        "--steps", type=positive, default=100, help="[OPTIONAL] gradient steps of the attacks; default: 100"
    )
    group.add_argument(
        "--white",
        type=float,
        default=0.05,
        metavar="AMPLITUDE",
        help="[OPTIONAL] amplitude of the uniform white noise; default: 0.05",
    )
    group.add_argument(
        "--suggest-noise",
        action="store_true",
        help="[OPTIONAL] suggest a fixed noise level for adv from the margins of ima",
    )
    add_checkpoint(group, "checkpoint of the run")
    group.add_argument("-o", type=Path, metavar="FOLDER", help="[OPTIONAL] write here instead of RUN/robustness")
    group.add_argument("--skip-broken", action="store_true", help="[OPTIONAL] leave out images that cannot be read")
    add_device(group)


def classify(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    args.device, args.arguments = device_name(args.device), sys.argv[1:] if arguments is None else arguments
    (_train if args.command == "train" else _evaluate)(args)


def _train(args: argparse.Namespace) -> None:
    import torch

    from nnunet_ima.classification.data import load, read_split, split_folder, write_split
    from nnunet_ima.classification.evaluate import check_unseen
    from nnunet_ima.classification.settings import Settings
    from nnunet_ima.classification.train import Training, read_checkpoint

    told = {one.name: getattr(args, one.name) for one in fields(Settings) if hasattr(args, one.name)}
    settings = replace(Settings(), **told, method_settings=_method_settings(args))
    _check_output(args, settings)
    split = (
        read_split(args.data, args.csv) if args.csv else split_folder(args.data, args.seed, args.test, args.validation)
    )
    if args.pretrained:
        check_unseen(split, Path(args.pretrained))
    parts = [load(split, part, args.image_size, args.channels, args.skip_broken) for part in ("train", "validation")]
    print(f"{len(parts[0])} training and {len(parts[1])} validation images of {', '.join(split.classes)}", flush=True)
    training = Training(settings, args.output, parts[0], parts[1], split.classes, torch.device(args.device))
    if training.method.remark:
        print(f"{training.method.label}: {training.method.remark}", flush=True)
    if args.c:
        training.load_state(read_checkpoint(args.output / "checkpoint_latest.pth"))
    elif args.pretrained:
        training.start_from(Path(args.pretrained))
    settings.write(args.output / "settings.json", split.classes, args.data)
    write_split(split, args.output / "split.csv")
    training.run()
    print(f"Wrote {args.output}; validation accuracy {100 * training.rows[-1]['validation_accuracy']:.1f} %")


def _method_settings(args: argparse.Namespace) -> dict[str, Any]:
    """UserError for a setting of another method than the one that is trained."""
    given = {name: getattr(args, name) for name in ("margin_step", "beta", "steps") if getattr(args, name) is not None}
    for word, values in parse_settings(args.set).items():
        if word != args.method:
            raise UserError(f"--set {word}.{next(iter(values))} is a setting of {word}, --method is {args.method}.")
        given |= values
    return given


def _check_output(args: argparse.Namespace, settings: Any) -> None:
    """UserError where a run would be overwritten, there is none to continue, or it was begun with other settings."""
    from nnunet_ima.classification.settings import read_settings

    check_writable(args.output)
    there = [file.name for file in args.output.glob("checkpoint_*.pth")]
    if there and not args.c:
        raise UserError(
            f"--output {args.output} holds a training already: continue it with --c, or name another folder."
        )
    if not args.c:
        return
    if "checkpoint_latest.pth" not in there:
        raise UserError(f"--c: {args.output} holds no interrupted training; leave --c out, or name another --output.")
    stored, *_ = read_settings(args.output)
    changed = [name for name, value in vars(stored).items() if value != getattr(settings, name)]
    if changed:
        name = changed[0]
        raise UserError(
            f"--c: {args.output} was begun with {name} {getattr(stored, name)}, not "
            f"{getattr(settings, name)}: give the flags it was begun with."
        )


def _evaluate(args: argparse.Namespace) -> None:
    from nnunet_ima.classification import report
    from nnunet_ima.classification.evaluate import Request, check_comparable, evaluate

    names = [run.resolve().name for run in args.model]
    if len(set(names)) < len(names):
        raise UserError(f"--model {', '.join(map(str, args.model))}: two runs have the same name; rename a folder.")
    several = len(names) > 1
    base = args.o or (args.model[0].resolve().parent if several else args.model[0]) / "robustness"
    folders = [
        base / name if several and args.o else run / "robustness" if several else base
        for run, name in zip(args.model, names, strict=True)
    ]
    for folder in {base, *folders}:
        check_writable(folder)
    request = Request(
        args.noise,
        args.attack,
        args.steps,
        args.white,
        args.data,
        args.chk,
        args.skip_broken,
        args.suggest_noise,
        args.device,
        len(names),
    )
    check_comparable(args.model, request)
    shared = {
        "noise": request.levels,
        "steps": args.steps,
        "device": args.device,
        "command": " ".join(["nnunet-ima-classify", *(quote(part) for part in args.arguments)]),
        "versions": versions("torch", "torchvision"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    evaluated = []
    for run_folder, folder in zip(args.model, folders, strict=True):
        one = evaluate(run_folder, request)
        evaluated.append(one)
        print(report.summary(one.content, request.levels))
        report.write(
            folder, {"models": [one.content], "norm": one.content["norm"], **shared}, [one.flips], [one.margins]
        )
        report.write_images(folder, one.images, one.content["classes"], one.found, one.distance)
    if several:
        content = {"models": [one.content for one in evaluated], "norm": evaluated[0].content["norm"], **shared}
        report.write(base, content, [one.flips for one in evaluated], [one.margins for one in evaluated])
    print(f"The figures are in {base}; read {base / 'report.html'}")


def main() -> None:
    run(classify)


if __name__ == "__main__":
    main()
