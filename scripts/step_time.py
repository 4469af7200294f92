"""Time, sample-forwards and peak memory of an IMA step against a plain nnU-Net step, on the same batches, in turns.

    python scripts/step_time.py -d D4 -chk .../nnUNetTrainerIMA__nnUNetPlansIMA__2d/fold_0/checkpoint_final.pth

The network and its margins come from a checkpoint of IMA training: an untrained network is right on no slice, and
there would be nothing to attack. Neither the checkpoint nor its folder is touched.
"""

import argparse
import copy
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from nnunet_ima.cli.common import device_name, nnunet_folder, positive
from nnunet_ima.nnunet.dataset_names import dataset_name


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--steps", type=positive, default=20, help="steps of each kind; default: 20")
    return parser.parse_args()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="data set")
    parser.add_argument("-c", default="2d", help="configuration")
    parser.add_argument("-p", default="nnUNetPlansIMA", help="plans with an ima block")
    parser.add_argument("-chk", required=True, type=Path, help="a checkpoint of nnUNetTrainerIMA")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"])


def build(args: argparse.Namespace) -> Any:
    """The IMA trainer with the checkpoint's network and margins; its results folder is a temporary one."""
    from nnunet_ima.segmentation.trainer import nnUNetTrainerIMA

    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(args.d)
    plans = json.loads((folder / f"{args.p}.json").read_text()) | {"continue_training": False}
    fold = args.chk.parent.name.removeprefix("fold_")
    trainer = nnUNetTrainerIMA(
        plans,
        args.c,
        fold if fold == "all" else int(fold),
        json.loads((folder / "dataset.json").read_text()),
        torch.device(args.device),
    )
    trainer.load_checkpoint(str(args.chk))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def timed(trainer: Any, step: Any, batch: dict[str, Any], sizes: list[int]) -> tuple[float, float, float]:
    """Seconds of a step, forwards per sample, and the peak memory of the process (CPU) or on the GPU, in GiB."""
    sizes.clear()
    batch = copy.deepcopy(batch)
    reset_peak(trainer.device)
    start = perf_counter()
    step(batch)
    synchronise(trainer.device)
    return perf_counter() - start, sum(sizes) / len(batch["data"]), peak(trainer.device)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: torch.device) -> None:
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """Since the last reset, in GiB; NaN where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith("VmHWM")), float("nan"))


def main() -> None:
    args = parse()
    device_name(args.device)
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # noqa: SIM112 (nnU-Net's spelling)
        from nnunet_ima.segmentation.plain_trainer import nnUNetTrainerPlain

        trainer = build(args)
        sizes: list[int] = []
        trainer.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        steps = {"plain": partial(nnUNetTrainerPlain.train_step, trainer), "IMA": trainer.train_step}
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
        peaks: dict[str, float] = {}
        for number in range(args.steps + 2):
            batch = next(trainer.dataloader_train)
            for name, step in steps.items():
                measured = timed(trainer, step, batch, sizes)
                # The first step's: a process on the CPU keeps what a larger step before it has asked for.
                peaks.setdefault(name, measured[2])
                if number >= 2:  # the first two warm up
                    times[name].append(measured)
        shares = trainer.ima.tally.shares()
        trainer.on_train_end()
    seconds = {name: median(row[0] for row in rows) for name, rows in times.items()}
    print(f"\n{'step':<8}{'seconds (median)':>18}{'forwards per sample':>22}{'peak memory (GiB)':>20}")
    for name, rows in times.items():
        forwards = median(row[1] for row in rows)
        print(f"{name:<8}{seconds[name]:>18.3f}{forwards:>22.1f}{peaks[name]:>20.2f}")
    print(f"IMA / plain: {seconds['IMA'] / seconds['plain']:.2f}")
    print(
        f"correct {shares['correct']:.1%}, crossed {shares['crossed']:.1%}, {shares['attack_steps']:.1f} attack steps"
    )


if __name__ == "__main__":
    main()
