"""`nnunet-ima-soup`: mixes the weights of a plain and of a hardened model, a dial from clean to robust."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import add_checkpoint, device_name, noise_levels, run
from nnunet_ima.cli.ladder import add_measuring, add_model, levels_above_0, weighed
from nnunet_ima.errors import UserError, check_number


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-soup",
        description="Mixes the weights of a plain model and of one hardened from it at shares of 0, 1/8, ..., 1, "
        "measures each mix with and without noise on the validation cases, and writes the chosen one as a model that "
        "nnU-Net predicts with.",
    )
    result.add_argument(
        "--plain", type=Path, required=True, metavar="FILE", help="checkpoint that the model was hardened from"
    )
    result.add_argument(
        "--noise", type=noise_levels, required=True, metavar="5,10", help="noise levels, as for nnunet-ima-eval"
    )
    result.add_argument("-o", type=Path, required=True, metavar="FOLDER", help="a new folder for the chosen mix")
    result.add_argument("-d", metavar="DATASET", help="data set of an nnU-Net model: D4, 4 or Dataset004_Hippocampus")
    add_model(result)
    result.add_argument("--run", type=Path, metavar="RUN", help="a run of nnunet-ima-classify, instead of -d")
    add_checkpoint(result, "checkpoint of the hardened model")
    result.add_argument(
        "--clean-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="[OPTIONAL] choose the most robust mix that loses at most so many points of Dice (or accuracy) without "
        "noise against the plain model; default: 1",
    )
    result.add_argument("--share", type=float, help="[OPTIONAL] choose this share of the hardened model instead")
    add_measuring(result)
    return result


def soup(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if (args.d is None) == (args.run is None):
        raise UserError("Give either -d, the data set of an nnU-Net model, or --run, a run of nnunet-ima-classify.")
    check_number("--clean-loss", args.clean_loss, 0)
    if args.share is not None:
        check_number("--share", args.share, 0, 1)
    levels = levels_above_0(args)
    args.device = device_name(args.device)

    from nnunet_ima.evaluation.soup import chosen, head, line, measured, write
    from nnunet_ima.nnunet.export import check_free

    check_free(args.o)
    names, what, measure, save = (_classifier if args.run else _segmentation)(args, levels)
    print(f"{what} in percent under {args.attack[0]}, by the share of {names[1]}:", head(levels), sep="\n", flush=True)
    mixes = measured(measure, names, lambda mix: print(line(mix), flush=True))
    choice = chosen(mixes, args.clean_loss, args.share)
    save(choice.share)
    write(args.o, mixes, choice, levels, what)
    plain = mixes[0]
    print(
        f"Chosen: {choice.share:g} of the hardened model. Without noise {choice.clean:.1f} (plain {plain.clean:.1f}), "
        f"in the mean under noise {choice.mean_noisy:.1f} (plain {plain.mean_noisy:.1f}).\nWrote {args.o}; the dial is "
        f"in {args.o / 'soup.png'}"
    )


Parts = tuple[tuple[str, str], str, Callable[[float], Any], Callable[[float], None]]
"""Names of both models, what is measured, how a share is measured, and how it is written."""


def _classifier(args: argparse.Namespace, levels: list[float]) -> Parts:
    import torch

    from nnunet_ima.classification.soup import Classifiers

    pair = Classifiers(args.plain, args.run, args.chk, torch.device(args.device))
    attack = args.attack[0]
    return (
        pair.names,
        "accuracy",
        lambda share: pair.measure(share, levels, attack, args.steps),
        lambda share: pair.write(share, args.o),
    )


def _segmentation(args: argparse.Namespace, levels: list[float]) -> Parts:
    from nnunet_ima.evaluation.soup import Mix, check_same_network, mixed_weights
    from nnunet_ima.segmentation.cases.mixes import read_plain, write_mix

    model = weighed(args, levels, args.chk)
    hardened = model.weights
    plain = read_plain(args.plain, model.model, model.subject.predictor.dataset_json)
    names = (str(args.plain), str(model.model))
    check_same_network(plain, hardened, names)

    def measure(share: float) -> Mix:
        clean, *noisy = model.dice(mixed_weights(plain, hardened, share))
        return Mix(share, clean, tuple(noisy))

    return names, "ADI", measure, lambda share: write_mix(model.model, mixed_weights(plain, hardened, share), args.o)


def main() -> None:
    run(soup)


if __name__ == "__main__":
    main()
