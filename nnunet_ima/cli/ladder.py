"""`nnunet-ima-ladder`: which of the checkpoints that a training kept on its way loses little and holds most."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import add_device, device_name, names_among, nnunet_folder, noise_levels, positive, run
from nnunet_ima.errors import UserError, check_number


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-ladder",
        description="Measures the checkpoints that a training with nnunet-ima-plan --ladder kept, with and without "
        "noise on the validation cases, shows both against the margin that was reached, and names the most robust one "
        "that keeps a given Dice without noise.",
    )
    result.add_argument("-d", required=True, metavar="DATASET", help="data set: D4, 4 or Dataset004_Hippocampus")
    add_model(result)
    result.add_argument(
        "--noise", type=noise_levels, required=True, metavar="5,10", help="noise levels, as for nnunet-ima-eval"
    )
    result.add_argument(
        "--keep",
        type=float,
        metavar="ADI",
        help="[OPTIONAL] least ADI without noise, in percent; default: one point below the best checkpoint",
    )
    result.add_argument(
        "-o", type=Path, metavar="FOLDER", help="[OPTIONAL] for ladder.csv and ladder.png; default: the fold's folder"
    )
    add_measuring(result)
    return result


def add_model(group: Any) -> None:
    """The flags that say which trained model of a data set."""
    group.add_argument("-c", default="2d", metavar="CONFIGURATION", help="[OPTIONAL] configuration; default: 2d")
    group.add_argument("-f", metavar="FOLD", help="[OPTIONAL] fold; default: that of the newest checkpoint")
    group.add_argument(
        "-tr", default="nnUNetTrainerIMA", metavar="TRAINER", help="[OPTIONAL] trainer; default: nnUNetTrainerIMA"
    )
    group.add_argument("-p", metavar="PLANS", help="[OPTIONAL] plans; default: those of the newest checkpoint")


def add_measuring(group: Any) -> None:
    """The flags that say on what, and how, several weights of one model are measured."""
    group.add_argument(
        "--cases",
        default="validation",
        help="[OPTIONAL] cases of an nnU-Net model, as for nnunet-ima-eval; default: validation, not those that you "
        "will test on",
    )
    group.add_argument(
        "--attack",
        type=names_among(("strong", "pgd")),
        default=("strong",),
        metavar="NAME",
        help="[OPTIONAL] strong or pgd; default: strong",
    )
    group.add_argument(
        "--steps", type=positive, default=50, help="[OPTIONAL] gradient steps, of each loss of strong; default: 50"
    )
    group.add_argument("--batch-size", type=positive, default=32, help="[OPTIONAL] slices per batch; default: 32")
    add_device(group)


def levels_above_0(args: argparse.Namespace) -> list[float]:
    """UserError where there are none."""
    levels = [level for level in args.noise if level > 0]
    if not levels:
        raise UserError("--noise needs a level above 0, like 5,10.")
    return levels


def weighed(args: argparse.Namespace, levels: list[float], checkpoint: str) -> Any:
    """The newest model that fits -d, -c, -f, -tr and -p, ready to be measured with other weights."""
    from nnunet_ima.evaluation.evaluate import Choice, rank_device
    from nnunet_ima.evaluation.noises import Settings
    from nnunet_ima.evaluation.weights import Weighed
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.segmentation.cases.models import find_models

    results, dataset = nnunet_folder("nnUNet_results"), dataset_name(args.d)
    found = find_models(results, dataset, args.c, args.f, [args.tr], args.p, checkpoint)
    model = max(found, key=lambda one: one.checkpoint_file.stat().st_mtime)
    settings = Settings(steps=args.steps, strong_steps=args.steps)
    choice = Choice(tuple(levels), args.attack, (), settings, args.cases, batch_size=args.batch_size)
    return Weighed(model, choice, nnunet_folder("nnUNet_preprocessed"), rank_device(args.device))


def ladder(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    levels = levels_above_0(args)
    if args.keep is not None:
        check_number("--keep", args.keep, 0, 100)
    args.device = device_name(args.device)

    from nnunet_ima.evaluation.ladder import chosen, head, line, rungs_of, write

    model = weighed(args, levels, "checkpoint_ladder_001.pth")
    print(f"{model.model.folder.name} fold {model.model.fold}, ADI in percent under {args.attack[0]}:", head(levels))
    rungs = []
    for rung, weights in rungs_of(model.model):
        clean, *noisy = model.dice(weights)
        rungs.append(rung.measured(clean, noisy))
        print(line(rungs[-1]), flush=True)
    choice = chosen(rungs, args.keep)
    folder = args.o or model.model.fold_folder
    write(folder, rungs, choice, levels)
    print(
        f"Chosen: {choice.file}, of epoch {choice.epoch}: without noise {choice.clean:.1f}, in the mean under noise "
        f"{choice.mean_noisy:.1f}.\nUse it with -chk {choice.file}; the picture is {folder / 'ladder.png'}"
    )


def main() -> None:
    run(ladder)


if __name__ == "__main__":
    main()
