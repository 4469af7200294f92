"""`nnunet-ima-eval`: how fast Dice falls under attack, per trained model."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_ima.cli.common import device_name, nnunet_folder, noise_levels, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.files import check_writable


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-eval",
        description="Attacks trained 2D nnU-Net models (white-box PGD) and shows how fast their Dice falls. "
        "Without -d, -c, -f, -tr, -p it compares all models of the data set that was trained last.",
    )
    result.add_argument("--noise", type=noise_levels, required=True, metavar="5,15,25",
                        help="noise levels: L2 norm of the perturbation of a slice, in normalised intensities (SD); "
                        "0, no noise, is always shown too")  # fmt: skip
    result.add_argument("-d", metavar="DATASET", help="[OPTIONAL] data set: D4, 4 or Dataset004_Hippocampus")
    result.add_argument("-c", metavar="CONFIGURATION", help="[OPTIONAL] configuration, a 2D one")
    result.add_argument("-f", metavar="FOLD", help="[OPTIONAL] fold, 0..4 or all")
    result.add_argument("-tr", metavar="TRAINER", help="[OPTIONAL] trainer, or several separated by commas")
    result.add_argument("-p", metavar="PLANS", help="[OPTIONAL] plans identifier")
    result.add_argument("-chk", default="checkpoint_final.pth", metavar="FILE",
                        help="[OPTIONAL] checkpoint file; default: checkpoint_final.pth")  # fmt: skip
    result.add_argument("-device", choices=["cuda", "cpu", "mps"], help="[OPTIONAL] default: cuda, cpu without one")
    result.add_argument("--attack", choices=["pgd", "segpgd", "cospgd", "ifgsm", "fgsm"], default="pgd",
                        help="[OPTIONAL] default: pgd; files of another go into a folder of its name")  # fmt: skip
    result.add_argument("--steps", type=positive, default=100, help="[OPTIONAL] steps of the attack; default: 100")
    result.add_argument("--cases", default="heldout",
                        help="[OPTIONAL] heldout (default), validation or test (the paper's first third of the "
                        "held-out cases, and the rest), or names separated by commas")  # fmt: skip
    result.add_argument(
        "--slices",
        default="complete",
        choices=["complete", "foreground", "all"],
        help="[OPTIONAL] slices that count: with all classes of their case (default), with any, all",
    )
    result.add_argument("--batch-size", type=positive, default=32, help="[OPTIONAL] slices per batch; default: 32")
    result.add_argument("--seed", type=int, default=0, help="[OPTIONAL] of the attack's random starts; default: 0")
    result.add_argument("-o", type=Path, metavar="FOLDER",
                        help="[OPTIONAL] write here instead of robustness/ beside each model")  # fmt: skip
    return result


def evaluate(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    results, preprocessed = nnunet_folder("nnUNet_results"), nnunet_folder("nnUNet_preprocessed")
    args.device = device_name(args.device)

    from nnunet_ima.evaluation.models import find_models
    from nnunet_ima.evaluation.report import plot_curves, table, write_results
    from nnunet_ima.evaluation.robustness import named_attack
    from nnunet_ima.segmentation.identifiers import dataset_name

    models = find_models(
        results, dataset_name(args.d) if args.d else None, args.c, args.f,
        args.tr.split(",") if args.tr else None, args.p, args.chk,
    )  # fmt: skip
    together = args.o or (results / models[0].dataset / _folder(args) if len(models) > 1 else None)
    for folder in [*(_own_folder(model, args) for model in models), *([together] if together else [])]:
        check_writable(folder)
    print("Evaluating:", *models, sep="\n  ", flush=True)
    attack = named_attack(args.attack, args.steps, args.seed)
    levels = sorted({0.0, *args.noise})
    choice = {"cases": args.cases, "slices": args.slices, "batch_size": args.batch_size}
    summaries = [_evaluate_one(model, preprocessed, levels, attack, choice, args) for model in models]
    print(table(summaries))
    if together is not None:
        write_results(together, summaries, attack, choice)
        plot_curves(together, summaries)
        print(f"\nThe comparison is in {together}.")
    print(f"\nA model's figures are in {_folder(args)}/ in its fold's folder." if args.o is None else "")


def _own_folder(model: Any, args: argparse.Namespace) -> Path:
    """Where the files of one model go."""
    folder: Path = args.o / f"{model.folder.name}__fold_{model.fold}" if args.o else model.fold_folder / _folder(args)
    return folder


def _folder(args: argparse.Namespace) -> Path:
    """robustness/ for the default attack, robustness/NAME/ for another."""
    return Path("robustness") if args.attack == "pgd" else Path("robustness") / args.attack


def _evaluate_one(
    model: Any, preprocessed: Path, levels: list[float], attack: Any, choice: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    import torch

    from nnunet_ima.evaluation.models import load_predictor
    from nnunet_ima.evaluation.report import plot_curves, summarise, write_results, write_slices
    from nnunet_ima.evaluation.robustness import sweep
    from nnunet_ima.evaluation.slices import choose_cases, held_out_cases, load_slices

    device = torch.device(args.device)
    predictor = load_predictor(model, device)
    configuration = predictor.configuration_manager
    held_out = held_out_cases(preprocessed / model.dataset, configuration.data_identifier, model.fold)
    cases = choose_cases(held_out, args.cases)
    folder = preprocessed / model.dataset / configuration.data_identifier
    slices = list(load_slices(predictor, folder, cases, args.slices))
    if not slices:
        raise UserError(f"{model}: no slice of the {len(cases)} cases qualifies; choose others with --slices, --cases.")
    print(f"{model}: {len(slices)} slices of {len(cases)} cases", flush=True)
    found = sweep(predictor, slices, levels, attack, args.batch_size)
    labels = predictor.label_manager
    foreground = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    names = {_key(value): name for name, value in predictor.dataset_json["labels"].items()}
    classes = [names.get(_key(label), str(label)) for label in foreground]
    pixels = slices[0].image.shape[0] * int(torch.tensor(configuration.patch_size).prod())
    summary = summarise(model, found, classes, pixels)
    own = _own_folder(model, args)
    write_results(own, [summary], attack, choice)
    write_slices(own, found, classes)
    plot_curves(own, [summary])
    return summary


def _key(label: Any) -> tuple[int, ...]:
    """A label or a region of several, as integers: nnU-Net gives numpy's, dataset.json plain ones."""
    return tuple(int(part) for part in label) if isinstance(label, tuple | list) else (int(label),)


def main() -> None:
    run(evaluate)


if __name__ == "__main__":
    main()
