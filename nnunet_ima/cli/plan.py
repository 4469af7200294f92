"""`nnunet-ima-plan`: writes the "ima" block into a copy of a data set's plans."""

import argparse
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from nnunet_ima.attacks.precision import PRECISIONS
from nnunet_ima.cli.common import (
    add_checkpoint,
    add_device,
    device_name,
    nnunet_folder,
    noise_levels,
    positive,
    positives,
    run,
)
from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.methods.registry import methods, parse_settings
from nnunet_ima.nnunet.dataset_names import dataset_name
from nnunet_ima.nnunet.plans import check_dataset, configuration, is_2d, is_second_stage, read_plans, set_features
from nnunet_ima.segmentation.objectives.in_turn import ATTACK_LOSSES
from nnunet_ima.segmentation.settings import PAPER, Settings, paper_settings

OF_IMA = ("margin_step", "beta", "steps", "alpha", "bisections", "random_start")
"""Flags of their own, for IMA is what most will train; those of the other methods come by --set."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-plan",
        description="Copies the plans of a data set, with the settings of IMA training added. The preprocessed data is "
        "shared with the original plans. Train with: nnUNetv2_train D4 2d 0 -tr nnUNetTrainerIMA -p nnUNetPlansIMA",
    )
    result.add_argument("-d", required=True, metavar="DATASET", help="data set: D4, 4 or Dataset004_Hippocampus")
    result.add_argument("-c", default="2d", metavar="CONFIGURATION", help="[OPTIONAL] a configuration; default: 2d")
    result.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="[OPTIONAL] plans to copy; default: nnUNetPlans"
    )
    result.add_argument("-o", metavar="PLANS", help="[OPTIONAL] name of the copy; default: the name of -p and IMA")
    result.add_argument(
        "--preset",
        choices=["paper"],
        help=f"[OPTIONAL] the paper's settings of {', '.join(PAPER)}; in 3D noise levels of the same root mean square",
    )
    result.add_argument(
        "--noise-max",
        type=float,
        metavar="EPS",
        help="[OPTIONAL] largest margin of IMA and noise level of methods with a fixed one: L2 norm over the patch, in "
        "normalised intensities (SD); default: a root mean square of 0.1 SD per pixel",
    )
    result.add_argument(
        "--margin-step",
        type=float,
        metavar="DELTA",
        help="[OPTIONAL] of IMA: growth of a margin per epoch, in SD; default: such that margins can just reach "
        "--noise-max",
    )
    result.add_argument("--beta", type=float, help="[OPTIONAL] of IMA: weight of the noisy loss, 0 to 1; default: 0.5")
    result.add_argument("--steps", type=int, help="[OPTIONAL] of IMA: gradient steps of the attack; default: 20")
    result.add_argument(
        "--alpha", type=float, help="[OPTIONAL] of IMA: each step has the length alpha * margin / steps; default: 4"
    )
    result.add_argument(
        "--bisections",
        type=int,
        help="[OPTIONAL] of IMA: bisections of the segment that crosses the boundary; default: 10",
    )
    result.add_argument(
        "--random-start",
        action="store_true",
        default=None,
        help="[OPTIONAL] of IMA: start attacks at random points; default: at the clean slice",
    )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help=f"[OPTIONAL] a setting of any method, like trades.beta=1; may be given several times; methods: "
        f"{', '.join(word for word in methods() if word != 'ce')}",
    )
    result.add_argument("--norm", choices=["l2", "linf"], help="[OPTIONAL] norm of the noise; default: l2")
    result.add_argument("--threshold", type=float, help="[OPTIONAL] Dice above which a slice is correct; default: 0.6")
    result.add_argument(
        "--dice",
        choices=["mean", "max", "merged"],
        help="[OPTIONAL] Dice of a slice: mean or max over its classes, or all classes merged into one; default: mean",
    )
    result.add_argument("--epochs", type=int, help="[OPTIONAL] epochs of the training; default: nnU-Net's 1000")
    result.add_argument("--iterations", type=int, help="[OPTIONAL] training steps per epoch; default: nnU-Net's 250")
    result.add_argument(
        "--val-iterations", type=int, help="[OPTIONAL] validation steps per epoch; default: nnU-Net's 50"
    )
    result.add_argument(
        "--initial-lr",
        type=float,
        metavar="RATE",
        help="[OPTIONAL] learning rate at the start, which nnU-Net lets fall to 0; default: nnU-Net's 0.01",
    )
    result.add_argument(
        "--budget",
        type=float,
        metavar="FORWARDS",
        help="[OPTIONAL] cost of the whole training in forwards of a batch (a plain step is 3), spent evenly over the "
        "epochs in place of --iterations",
    )
    result.add_argument(
        "--ema",
        type=float,
        metavar="DECAY",
        help="[OPTIONAL] validate and save an average of the weights with this decay per step, like 0.999; default: 0, "
        "none",
    )
    result.add_argument(
        "--awp",
        type=float,
        metavar="GAMMA",
        help="[OPTIONAL] noise on the weights too, this share of each layer's norm, like 0.005; default: 0, none",
    )
    result.add_argument(
        "--attack-loss",
        choices=ATTACK_LOSSES,
        help="[OPTIONAL] what attacks climb in training: nnU-Net's loss, or that and those of strong in turn; default: "
        "nnunet",
    )
    result.add_argument(
        "--val-noise",
        type=float,
        metavar="EPS",
        help="[OPTIONAL] attack nnU-Net's validation batches at this noise level in each epoch, show the Dice that is "
        "left, and keep the most robust epoch as checkpoint_best_robust.pth; default: no attack",
    )
    result.add_argument(
        "--clean-loss",
        type=float,
        metavar="POINTS",
        help="[OPTIONAL] percentage points of pseudo Dice without noise that this checkpoint may be below the best "
        "epoch, both in their running means; default: 10",
    )
    result.add_argument(
        "--ladder",
        type=int,
        metavar="N",
        help="[OPTIONAL] keep N checkpoints evenly over the training, for nnunet-ima-ladder; default: 0, none",
    )
    result.add_argument(
        "--recompute",
        choices=["on", "off"],
        help="[OPTIONAL] compute activations of training passes again for their gradient, so that an attack method "
        "needs no more memory than nnU-Net, for about two more forward passes a step; default: on in 3D, off in 2D",
    )
    result.add_argument(
        "--attack-precision",
        choices=PRECISIONS,
        help="[OPTIONAL] precision of attacks; default: auto, half where the device computes it natively",
    )
    result.add_argument("--batch-size", type=positive, help="[OPTIONAL] slices per batch; default: as in the plans")
    result.add_argument(
        "--features",
        type=positives,
        metavar="16,32,64,128",
        help="[OPTIONAL] features of each stage instead of those in the plans; fewer numbers than stages leave out the "
        "deepest ones; a smaller network trains faster, for trials on a CPU",
    )
    _add_preview_arguments(result.add_argument_group("preview"))
    return result


def _add_preview_arguments(group: Any) -> None:
    group.add_argument(
        "--preview",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] draw slices at several noise levels into FILE: PNG, PDF or SVG",
    )
    group.add_argument(
        "--noise",
        type=noise_levels,
        metavar="5,10,15",
        help="[OPTIONAL] noise levels to draw; default: a quarter, a half and all of --noise-max",
    )
    group.add_argument(
        "-tr", metavar="TRAINER", help="[OPTIONAL] also draw adversarial noise against the model of this trainer"
    )
    group.add_argument("-mp", metavar="PLANS", help="[OPTIONAL] plans of that model; default: its newest")
    group.add_argument("-f", metavar="FOLD", help="[OPTIONAL] fold of that model; default: its newest")
    add_checkpoint(group, "checkpoint of that model")
    add_device(group)


def plan(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    dataset = dataset_name(args.d)
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    source, target_name = folder / f"{args.p}.json", args.o or f"{args.p}IMA"
    target = folder / f"{target_name}.json"
    plans = read_plans(source)
    if target_name == args.p:
        raise UserError(f"-o {target_name} is the plans to copy: give the copy another name.")
    if target.exists() and "ima" not in read_plans(target):
        raise UserError(f"{target} exists and was not written by nnunet-ima-plan: give another name with -o.")
    check_dataset(plans, dataset)
    if is_second_stage(plans, args.c):
        raise UserError(
            f"-c {args.c}: the second stage of a cascade, whose input is partly a segmentation, is not trained with "
            "noise; use 2d, 3d_lowres or 3d_fullres."
        )
    start = paper_settings(int(dataset[7:10]), _scale(plans, args.c)) if args.preset else Settings()
    settings = _settings(args, start)
    plans |= {"plans_name": target_name, "ima": settings.block()}
    if args.batch_size:
        plans["configurations"][args.c]["batch_size"] = args.batch_size
    if args.features:
        set_features(plans, args.c, args.features)
    if args.preview:
        _preview(args, plans, settings, folder)
    with replacing(target) as path:
        path.write_text(json.dumps(plans, indent=4))
    _report(target, dataset, args.c, settings, tuple(configuration(plans, args.c)["patch_size"]), _channels(folder))


def _scale(plans: dict[str, Any], name: str) -> float:
    """Of the paper's noise levels, which are those of the data set's 2D patch. UserError where there is none."""
    if is_2d(plans, name):
        return 1.0
    if "2d" not in plans["configurations"]:
        raise UserError(
            f"--preset paper has noise levels of slices, and without a 2d configuration in the plans those of {name} "
            "are unknown: give --noise-max and --margin-step instead."
        )
    patch, of_slices = (configuration(plans, one)["patch_size"] for one in (name, "2d"))
    return math.sqrt(math.prod(patch) / math.prod(of_slices))


def _settings(args: argparse.Namespace, start: Settings) -> Settings:
    """The settings of the command line over those of `start`."""
    given = {one.name: getattr(args, one.name, None) for one in fields(Settings) if one.name != "methods"}
    if args.recompute is not None:
        given["recompute"] = args.recompute == "on"
    own = {name: getattr(args, name) for name in OF_IMA if getattr(args, name) is not None}
    chosen = {word: dict(values) for word, values in start.methods.items()}
    for word, values in (("ima", own), *parse_settings(args.set).items()):
        chosen[word] = chosen.get(word, {}) | values
    return replace(start, **{name: value for name, value in given.items() if value is not None}, methods=chosen)


def _dataset_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return content


def _channels(folder: Path) -> int:
    content = _dataset_json(folder)
    return len(content.get("channel_names", content.get("modality", {"0": ""})))


def _preview(args: argparse.Namespace, plans: dict[str, Any], settings: Settings, folder: Path) -> None:
    from nnunet_ima.report.preview import check_format, preview
    from nnunet_ima.segmentation.cases.models import find_models, load_predictor

    check_format(args.preview)
    if settings.norm != "l2" or (args.noise and not any(args.noise)):
        raise UserError("--preview draws L2 noise above 0: leave --norm linf out and give levels like --noise 5,10,15.")
    largest = settings.resolved_noise_max(_channels(folder), tuple(configuration(plans, args.c)["patch_size"]))
    levels = args.noise or [float(f"{largest * share:.3g}") for share in (0.25, 0.5, 1)]
    predictor = None
    if args.tr:
        import torch

        results = nnunet_folder("nnUNet_results")
        found = find_models(results, folder.name, args.c, args.f, [args.tr], args.mp, args.chk)
        model = max(found, key=lambda model: model.checkpoint_file.stat().st_mtime)
        predictor = load_predictor(model, torch.device(device_name(args.device)))
        print(f"Adversarial noise against {model}")
    preview(
        plans, args.c, _dataset_json(folder), folder, [level for level in levels if level > 0], args.preview, predictor
    )
    print(f"Wrote {args.preview}")


def _report(target: Path, dataset: str, name: str, settings: Settings, patch: tuple[int, ...], channels: int) -> None:
    noise_max = settings.resolved_noise_max(channels, patch)
    rms = noise_max / math.sqrt(channels * math.prod(patch))
    print(f"Wrote {target}")
    print(f"  largest noise level {noise_max:.4g} on patches of {' x '.join(map(str, (channels, *patch)))}")
    if settings.norm == "l2":
        print(f"  that is a root mean square of {rms:.3f} SD per {'pixel' if len(patch) == 2 else 'voxel'}")
    print("Train with:")
    print(f"  nnUNetv2_train {int(dataset[7:10])} {name} 0 -tr nnUNetTrainerIMA -p {target.stem}")


def main() -> None:
    run(plan)


if __name__ == "__main__":
    main()
