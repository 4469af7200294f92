"""Trains several methods on one data set alike, attacks them alike, and compares them: one table and one plot.

    python scripts/compare_methods.py segmentation -d D4 -p nnUNetPlansIMA --methods Plain,IMA,Adv5,TRADES5 \\
        --budget 9000 --noise 1,5,10,15 --cases test --seeds 1,2 --output compare -device cpu
    python scripts/compare_methods.py classification --data IMAGES --methods ce,ima,adv5,trades5 --budget 9000 \\
        --noise 1,3,5,10 --output compare -- --epochs 40 --noise-max 10

All methods get the same --budget, in forwards of a batch (a step without noise is 3), and take as many steps as it pays
for; without one all take the same number of steps, whatever they cost. Methods are ranked under the first --attack.
Segmentation: the methods are trainers without "nnUNetTrainer", so Adv5 is nnUNetTrainerAdv5; the other settings are
those of the plans. Classification: the methods are words, with a noise level of their own like adv1.5; what stands
behind `--` goes to `nnunet-ima-classify train`, `--set` to the method it is for.
The same command again continues where it was. --gpus 0,1 trains one method on each; --jobs 2 trains two at
once on the CPU, each with half of its cores, which takes less time for small images, as --gpus 0,0,0 does on one GPU.
--pretrained hardens a model with each method instead of training from the beginning; {seed} and {fold} in it stand for
the seed and the fold. -f 0,1,2,3 trains each fold, and the table pools their held-out cases.

`compare.csv` and `compare.md`: each method at each noise level, mean over the seeds, with the 95 % interval over cases
(patients, or images where these are unknown), and by how much it differs from --against, case by case. `compare.png`:
without noise against the mean over the noise levels. `compare_pgd.*` are the same under another --attack. They grow
with every run that ends.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ima.cli.common import device_name, noise_levels, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.files import replacing
from nnunet_ima.methods.method import settings_of
from nnunet_ima.methods.registry import method_named, methods
from nnunet_ima.metrics.statistics import resampled
from nnunet_ima.plots import new_figure, save

SEEDED = """
import json, random, sys, numpy, torch
seed, device, dataset, trainer, plans, fold, again, pretrained = json.loads(sys.argv[1])
random.seed(seed); numpy.random.seed(seed); torch.manual_seed(seed)
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
if __name__ == "__main__":
    fold = fold if fold == "all" else int(fold)
    trainer = get_trainer_from_args(dataset, "2d", fold, trainer, plans, again, device=torch.device(device))
    maybe_load_checkpoint(trainer, again, False, pretrained)
    trainer.run_training()
"""
"""nnUNetv2_train without its last part, the validation, which nnunet-ima-eval does better. The command has no seed
of its own; this draws the first weights and, with nnUNet_n_proc_DA=0, the batches alike. And it takes all cores of
the CPU for one training, where --jobs divides them."""


@dataclass(frozen=True)
class Scores:
    """values: (samples, levels) in percent, NaN where a slice has no Dice; samples: their names; groups: the case, or
    patient, of each."""

    values: NDArray[np.float64]
    samples: list[str]
    groups: list[str]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    for task in ("segmentation", "classification"):
        group = tasks.add_parser(task)
        group.add_argument("--methods", required=True, type=lambda text: text.split(","), metavar="NAME,...")
        group.add_argument("--noise", required=True, type=noise_levels, metavar="1,5,10")
        group.add_argument("--seeds", default=[0], type=lambda text: [int(part) for part in text.split(",")])
        group.add_argument("--budget", type=float, metavar="FORWARDS", help="of each training; default: equal steps")
        group.add_argument(
            "--attack",
            type=lambda text: text.split(","),
            default=["strong", "pgd"],
            metavar="NAME,...",
            help="of the evaluation, the first ranks; default: strong,pgd",
        )
        group.add_argument("--steps", type=int, default=100, help="of the attack in the evaluation; default: 100")
        if task == "segmentation":
            group.add_argument("--batch-size", type=positive, default=32, help="of the evaluation; default: 32")
        group.add_argument("--output", required=True, type=Path)
        group.add_argument("--gpus", type=lambda text: text.split(","), help="one training on each, like 0,1")
        group.add_argument("--jobs", type=positive, default=1, help="trainings at once on the CPU; default: 1")
        group.add_argument("--pretrained", metavar="FILE", help="a checkpoint each method starts from")
        group.add_argument(
            "--against",
            metavar="NAME",
            help="of --methods, the one the others are compared with case by case; default: IMA, or the "
            "first without it",
        )
        group.add_argument("-device", choices=["cuda", "cpu", "mps"])
        if task == "segmentation":
            group.add_argument("-d", required=True, metavar="DATASET")
            group.add_argument("-p", default="nnUNetPlansIMA", metavar="PLANS")
            group.add_argument(
                "-f",
                default=["0"],
                type=lambda text: text.split(","),
                metavar="FOLD,...",
                help="default: 0; of several, each case is attacked in the model that has not seen it",
            )
            group.add_argument(
                "--strong-steps", type=int, default=100, help="of each loss of --attack strong; default: 100"
            )
            group.add_argument(
                "--noise-on-padding",
                action="store_true",
                help="as for nnunet-ima-eval; makes all slices one size, so that a GPU attacks many at once",
            )
            group.add_argument("--cases", default="test", help="as for nnunet-ima-eval; default: test")
        else:
            group.add_argument("--data", required=True, type=Path, metavar="DIR")
            group.add_argument("training", nargs="*", help="behind --: flags of nnunet-ima-classify train")
    args = parser.parse_args()
    if args.jobs > 1 and args.gpus:
        raise UserError(f"--jobs {args.jobs} is for the CPU: leave it out beside --gpus.")
    ima = [name for name in args.methods if name.lower() == "ima"]
    args.against = args.against or (ima or args.methods)[0]
    if args.against not in args.methods:
        raise UserError(f"--against {args.against} is not among --methods {','.join(args.methods)}: name one of them.")
    return args


def call(command: Sequence[str], gpu: str | None, **environment: str) -> None:
    """UserError where the command fails; what it printed is on the terminal."""
    print("$", " ".join(part if "\n" not in part else "..." for part in command), flush=True)
    chosen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
    done = subprocess.run(command, env={**os.environ, **environment, **chosen}, check=False)
    if done.returncode:
        raise UserError(f"{command[0]} ... ended with {done.returncode}: see above, then give the same command again.")


def pretrained(args: argparse.Namespace, seed: int, fold: str = "") -> str | None:
    """UserError for a missing file."""
    if args.pretrained is None:
        return None
    file = Path(args.pretrained.replace("{seed}", str(seed)).replace("{fold}", fold)).resolve()
    if not file.is_file():
        raise UserError(
            f"--pretrained {file} does not exist: give a checkpoint, with {{seed}} and {{fold}} in its name."
        )
    return str(file)


# --- segmentation -----------------------------------------------------------------------------------------------------


def results_of(args: argparse.Namespace, seed: int) -> Path:
    folder: Path = args.output.resolve() / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fold_of(args: argparse.Namespace, method: str, seed: int, fold: str) -> Path:
    from nnunet_ima.nnunet.dataset_names import dataset_name

    model = f"nnUNetTrainer{method}__{args.p}__2d"
    return results_of(args, seed) / dataset_name(args.d) / model / f"fold_{fold}"


def train_segmentation(args: argparse.Namespace, method: str, seed: int, gpu: str | None) -> None:
    for fold in args.f:
        train_fold(args, method, seed, fold, gpu)


def train_fold(args: argparse.Namespace, method: str, seed: int, fold: str, gpu: str | None) -> None:
    from nnunet_ima.nnunet.dataset_names import parse_identifier

    folder = fold_of(args, method, seed, fold)
    if (folder / "checkpoint_final.pth").is_file():
        return
    again = (folder / "checkpoint_latest.pth").is_file()
    start = None if again else pretrained(args, seed, fold)
    settings = [seed, args.device, str(parse_identifier(args.d)), f"nnUNetTrainer{method}", args.p, fold, again, start]
    call([sys.executable, "-c", SEEDED, json.dumps(settings)], gpu, nnUNet_results=str(results_of(args, seed)))


def folder_and_plans(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The data set's folder of preprocessed data, and the plans -p in it."""
    from nnunet_ima.cli.common import nnunet_folder
    from nnunet_ima.nnunet.dataset_names import dataset_name
    from nnunet_ima.nnunet.plans import read_plans

    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(args.d)
    return folder, read_plans(folder / f"{args.p}.json")


def check_cases(args: argparse.Namespace) -> None:
    """UserError, before anything is trained, for --cases that a fold does not hold out and for folds that share one."""
    from nnunet_ima.evaluation.pooled import check_folds
    from nnunet_ima.nnunet.plans import configuration
    from nnunet_ima.segmentation.cases.slices import choose_cases, held_out_cases

    folder, plans = folder_and_plans(args)
    identifier = configuration(plans, "2d")["data_identifier"]
    check_folds(args.f, folder, identifier)
    for fold in args.f:
        choose_cases(held_out_cases(folder, identifier, fold), args.cases)


def with_budget(args: argparse.Namespace) -> str:
    """The name of a copy of the plans with the budget in it."""
    folder, plans = folder_and_plans(args)
    name = f"{args.p}_{args.budget:g}".replace(".", "p")
    plans |= {"plans_name": name, "ima": plans.get("ima", {}) | {"budget": args.budget}}
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(plans, indent=4))
    return name


def cost_segmentation(args: argparse.Namespace, method: str, seed: int) -> float:
    """Of the training of a fold, in forwards of a batch, in the mean over the folds."""
    return float(np.mean([cost_of_fold(fold_of(args, method, seed, fold)) for fold in args.f]))


def cost_of_fold(folder: Path) -> float:
    from nnunet_ima.methods.cost import PLAIN_STEP

    found = cost_in(folder, ("margins.csv", "attacks.csv"))
    if found is None:
        plans = json.loads((folder.parent / "plans.json").read_text()).get("ima", {})
        return float(plans.get("budget") or PLAIN_STEP * plans.get("epochs", 1000) * plans.get("iterations", 250))
    return found


def cost_in(folder: Path, names: Sequence[str]) -> float | None:
    """The forwards in the last row of a training's table, None where it has none of these tables."""
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open(newline="") as content:
                return float(list(csv.DictReader(content))[-1]["forwards"])
    return None


def evaluate_segmentation(args: argparse.Namespace, method: str, seed: int, gpu: str | None) -> dict[str, Scores]:
    """All slices of the folds' held-out cases, each in the model that has not seen it."""
    folds = [evaluate_fold(args, method, seed, fold, gpu) for fold in args.f]
    return {attack: stacked([scores[attack] for scores in folds]) for attack in args.attack}


def stacked(folds: Sequence[Scores]) -> Scores:
    """The samples of all folds."""
    return Scores(
        np.concatenate([one.values for one in folds]),
        [name for one in folds for name in one.samples],
        [group for one in folds for group in one.groups],
    )


def evaluate_fold(args: argparse.Namespace, method: str, seed: int, fold: str, gpu: str | None) -> dict[str, Scores]:
    call(
        [
            sys.executable,
            "-m",
            "nnunet_ima.cli.eval",
            "-d",
            args.d,
            "-p",
            args.p,
            "-f",
            fold,
            "-tr",
            f"nnUNetTrainer{method}",
            "--noise",
            ",".join(f"{level:g}" for level in args.noise),
            "--cases",
            args.cases,
            "--attack",
            ",".join(args.attack),
            "--steps",
            str(args.steps),
            "--strong-steps",
            str(args.strong_steps),
            "--batch-size",
            str(args.batch_size),
            "-device",
            args.device,
            *(["--noise-on-padding"] if args.noise_on_padding else []),
        ],
        gpu,
        nnUNet_results=str(results_of(args, seed)),
    )
    folder = fold_of(args, method, seed, fold) / "robustness"
    file = (folder if args.attack[0] == "pgd" else folder / args.attack[0]) / "slices.csv"
    return {attack: read_slices(file, [0.0, *args.noise], attack) for attack in args.attack}


def read_slices(file: Path, levels: Sequence[float], attack: str = "pgd") -> Scores:
    """The class-mean Dice of each slice under an attack at each level, as ADI counts it."""
    dice: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with file.open(newline="") as content:
        for row in csv.DictReader(content):
            if row["noise"] != attack:
                continue
            tp, wrong = int(row["tp"]), int(row["fp"]) + int(row["fn"])
            if tp + wrong:
                dice[row["case"], row["slice"]][float(row["level"])].append(2 * tp / (2 * tp + wrong))
    values = [[100 * np.mean(found[level]) if found[level] else np.nan for level in levels] for found in dice.values()]
    return Scores(np.array(values), [f"{case} {number}" for case, number in dice], [case for case, _ in dice])


# --- classification ---------------------------------------------------------------------------------------------------


def parted(name: str) -> tuple[str, str | None]:
    """Word and noise level of a method like adv1.5. UserError for an unknown one, or one that takes no level."""
    parts = re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)?", name)
    assert parts is not None
    method = method_named(parts[1])
    if parts[2] and "noise" not in settings_of(method):
        raise UserError(f"--methods {name}: {method.label} takes no noise level, write {parts[1]}.")
    return parts[1], parts[2]


def flags_of(name: str, training: Sequence[str]) -> list[str]:
    """What a method takes of the flags behind `--`: `--noise-max` if it has no level of its own and needs one, `--set`
    of its own settings, and the rest."""
    word, level = parted(name)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--noise-max")
    parser.add_argument("--set", action="append", default=[])
    given, flags = parser.parse_known_args(training)
    level = level or given.noise_max
    if level and "noise" in settings_of(method_named(word)):
        flags += ["--noise-max", level]
    for setting in given.set:
        if setting.startswith(f"{word}."):
            flags += ["--set", setting]
    return ["--method", word, *flags]


def run_of(args: argparse.Namespace, method: str, seed: int) -> Path:
    return Path(args.output) / f"seed_{seed}" / method


def train_classification(args: argparse.Namespace, method: str, seed: int, gpu: str | None) -> None:
    folder = run_of(args, method, seed)
    if (folder / "checkpoint_final.pth").is_file():
        return
    file = pretrained(args, seed)
    start = [] if file is None else ["--pretrained", file]
    again = ["--c"] if (folder / "checkpoint_latest.pth").is_file() else []
    call(
        [
            sys.executable,
            "-m",
            "nnunet_ima.cli.classify",
            "train",
            "--data",
            str(args.data),
            "--output",
            str(folder),
            "--seed",
            str(seed),
            "-device",
            args.device,
            *flags_of(method, args.training),
            *([] if args.budget is None else ["--budget", f"{args.budget:g}"]),
            *start,
            *again,
        ],
        gpu,
    )


def cost_classification(args: argparse.Namespace, method: str, seed: int) -> float:
    """Of a training, in forwards of a batch."""
    return cost_in(run_of(args, method, seed), ["log.csv"]) or 0.0


def evaluate_classification(args: argparse.Namespace, method: str, seed: int, gpu: str | None) -> dict[str, Scores]:
    folder = run_of(args, method, seed)
    file = folder / "robustness" / "images.csv"
    if not file.is_file():
        call(
            [
                sys.executable,
                "-m",
                "nnunet_ima.cli.classify",
                "eval",
                "--model",
                str(folder),
                "--noise",
                ",".join(f"{level:g}" for level in args.noise),
                "--attack",
                ",".join(args.attack),
                "--steps",
                str(args.steps),
                "-device",
                args.device,
            ],
            gpu,
        )
    return {attack: read_images(file, [0.0, *args.noise], attack) for attack in args.attack}


def read_images(file: Path, levels: Sequence[float], attack: str = "pgd") -> Scores:
    """100 for each image that is right under an attack at each level, 0 for one that is not."""
    right: dict[str, dict[float, float]] = defaultdict(dict)
    groups: dict[str, str] = {}
    with file.open(newline="") as content:
        for row in csv.DictReader(content):
            if row["attack"] == attack:
                right[row["file"]][float(row["noise"])] = 100.0 * int(row["right"])
                groups[row["file"]] = row.get("group") or row["file"]
    values = [[found[level] for level in levels] for found in right.values()]
    return Scores(np.array(values), list(groups), list(groups.values()))


# --- both -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """scores: under each attack; forwards: what the training cost, in forwards of a batch."""

    scores: dict[str, Scores]
    forwards: float


def everything(args: argparse.Namespace) -> Iterator[dict[str, dict[int, Result]]]:
    """Of each method the results by seed, as far as they are known, after each training and evaluation.

    UserError at the end if any has failed; the others go on."""
    train, evaluate, cost = (
        (train_segmentation, evaluate_segmentation, cost_segmentation)
        if args.task == "segmentation"
        else (train_classification, evaluate_classification, cost_classification)
    )
    gpus: Queue[str | None] = Queue()
    for gpu in args.gpus or [None] * args.jobs:
        gpus.put(gpu)

    def one(method: str, seed: int) -> Result:
        gpu = gpus.get()
        try:
            train(args, method, seed, gpu)
            return Result(evaluate(args, method, seed, gpu), cost(args, method, seed))
        finally:
            gpus.put(gpu)

    found: dict[str, dict[int, Result]] = {method: {} for method in args.methods}
    failed: list[str] = []
    with ThreadPoolExecutor(gpus.qsize()) as pool:
        jobs = {pool.submit(one, method, seed): (method, seed) for seed in args.seeds for method in args.methods}
        for done in as_completed(jobs):
            method, seed = jobs[done]
            try:
                found[method][seed] = done.result()
            except UserError as error:
                failed.append(f"{method}: {error}")
                continue
            yield {method: results for method, results in found.items() if results}
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed, the table has the others; the first: {failed[0]}")


def with_noisy(scores: Scores) -> NDArray[np.float64]:
    """The values (samples, levels), and as last column their mean over the noisy levels."""
    return np.column_stack([scores.values, scores.values[:, 1:].mean(1)])


def pooled(by_seed: Mapping[int, Scores]) -> Scores:
    """Each sample once, its values, the noisy mean with them, averaged over the seeds that have it: the seeds of a
    classifier have test images of their own."""
    seeds = list(by_seed.values())
    group_of = {name: group for one in seeds for name, group in zip(one.samples, one.groups, strict=True)}
    row_of = {name: row for row, name in enumerate(group_of)}
    sums = np.zeros((len(row_of), seeds[0].values.shape[1] + 1))
    counts = np.zeros_like(sums)
    for one in seeds:
        rows, values = [row_of[name] for name in one.samples], with_noisy(one)
        sums[rows] += np.nan_to_num(values)
        counts[rows] += ~np.isnan(values)
    values = np.where(counts > 0, sums / counts.clip(1), np.nan)
    return Scores(values, list(group_of), list(group_of.values()))


def interval(values: NDArray[np.float64], groups: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high end, for each column of `values` (samples, columns), of the 95 % percentile bootstrap of groups."""
    usable = ~np.isnan(values)
    number_of, draws = resampled(groups)
    sums, counts = np.zeros((draws.shape[1], values.shape[1])), np.zeros((draws.shape[1], values.shape[1]))
    np.add.at(sums, number_of, np.nan_to_num(values))
    np.add.at(counts, number_of, usable)
    low, high = np.percentile((draws @ sums) / (draws @ counts).clip(1), [2.5, 97.5], axis=0)
    return low, high


def summary(by_seed: Mapping[int, Scores]) -> NDArray[np.float64]:
    """(levels + 1, 5): of each level and of the mean of the noisy ones the mean over the seeds in percent, low and high
    end of its interval, least and largest seed."""
    per_seed = np.array([np.nanmean(with_noisy(one), 0) for one in by_seed.values()])
    together = pooled(by_seed)
    low, high = interval(together.values, together.groups)
    return np.stack([per_seed.mean(0), low, high, per_seed.min(0), per_seed.max(0)], 1)


def difference(by_seed: Mapping[int, Scores], reference: Mapping[int, Scores]) -> NDArray[np.float64]:
    """(levels + 1, 3): by how much a method is above another in the mean over the seeds that both have, on the samples
    that both have, and the interval of that; NaN where they have no seed in common."""
    both = by_seed.keys() & reference.keys()
    if not both:
        levels = next(iter(by_seed.values())).values.shape[1]
        return np.full((levels + 1, 3), np.nan)
    own, other = (pooled({seed: each[seed] for seed in both}) for each in (by_seed, reference))
    row_of = {name: row for row, name in enumerate(other.samples)}
    shared = [row for row, name in enumerate(own.samples) if name in row_of]
    apart = own.values[shared] - other.values[[row_of[own.samples[row]] for row in shared]]
    low, high = interval(apart, [own.groups[row] for row in shared])
    return np.stack([np.nanmean(apart, 0), low, high], 1)


def write(args: argparse.Namespace, results: dict[str, dict[int, Result]], attack: str) -> None:
    """The table and the plot under one attack."""
    name = "compare" if attack == args.attack[0] else f"compare_{attack}"
    scores = {
        method: {seed: one.scores[attack] for seed, one in by_seed.items()} for method, by_seed in results.items()
    }
    forwards = {
        method: float(np.mean([one.forwards for one in by_seed.values()])) for method, by_seed in results.items()
    }
    found = {method: summary(by_seed) for method, by_seed in scores.items()}
    reference = scores.get(args.against)
    apart = {method: difference(by_seed, reference) for method, by_seed in scores.items() if reference}
    titles = [*(f"{level:g}" for level in [0.0, *args.noise]), "mean of noisy"]
    with replacing(args.output / f"{name}.csv") as path, path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "method",
                "seeds",
                "forwards",
                "noise",
                "mean",
                "low",
                "high",
                "least_seed",
                "largest_seed",
                *(f"{part}_above_{args.against}" for part in ("mean", "low", "high") if apart),
            ]
        )
        for method, rows in found.items():
            for number, title in enumerate(titles):
                values = [*rows[number], *(apart[method][number] if apart else [])]
                row = [method, len(scores[method]), f"{forwards[method]:.0f}", title]
                writer.writerow([*row, *(f"{value:.3f}" for value in values)])
    heads = [f"under {attack}", "seeds", "forwards", *titles, *([f"noisy, above {args.against}"] if apart else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for method, rows in found.items():
        cells = [f"{row[0]:.1f} ({row[1]:.1f}-{row[2]:.1f})" for row in rows]
        if apart:
            mean, low, high = apart[method][-1]
            blank = method == args.against or np.isnan(mean)
            cells.append("" if blank else f"{mean:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append("| " + " | ".join([method, str(len(scores[method])), f"{forwards[method]:.0f}", *cells]) + " |")
    with replacing(args.output / f"{name}.md") as path:
        path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    save(plot(args, found, titles), args.output, name)


def plot(args: argparse.Namespace, found: dict[str, NDArray[np.float64]], titles: Sequence[str]) -> Any:
    """Without noise against the mean over the noise levels, with their intervals."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    # Methods may lie on each other, so their names stand beside the plot; colours and markers repeat after 10 and 4.
    for (method, rows), marker in zip(found.items(), cycle("osv^"), strict=False):
        clean, noisy = rows[0], rows[-1]
        errors = [[[one[0] - one[1]], [one[2] - one[0]]] for one in (clean, noisy)]
        axes.errorbar(clean[0], noisy[0], errors[1], errors[0], fmt=marker, capsize=2, elinewidth=0.7, label=method)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    what = "ADI" if args.task == "segmentation" else "accuracy"
    axes.set(xlabel=f"{what} without noise (%)", ylabel=f"mean {what} at noise {', '.join(titles[1:-1])} (%)")
    axes.grid(alpha=0.3)
    return figure


def compare(_: list[str] | None = None) -> None:
    args = parse()
    args.device = device_name(args.device)
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    if args.task == "classification":
        for name in args.methods:
            parted(name)
    else:
        from nnunet_ima.segmentation.trainers import trainer_named

        unknown = [name for name in args.methods if trainer_named(f"nnUNetTrainer{name}") is None]
        if unknown:
            labels = ", ".join(method.label for method in methods().values())
            raise UserError(f"--methods {unknown[0]} is not known: choose among {labels}, with a level like Adv5.")
        check_cases(args)
        if args.budget is not None:
            args.p = with_budget(args)
    args.output.mkdir(parents=True, exist_ok=True)
    for results in everything(args):
        for attack in args.attack:
            write(args, results, attack)
    print(f"The table and the plot are in {args.output}")


if __name__ == "__main__":
    run(compare)
