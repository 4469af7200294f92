"""Boundary distances found in reduced precision against those in float32: same network, slices and margins.

    python scripts/precision.py -d D4 -chk .../nnUNetTrainerIMA__nnUNetPlansIMA__2d/fold_0/checkpoint_final.pth

A margin moves by the mean of such distances, so its error is at most theirs.
"""

import argparse
import os
import tempfile
from typing import Any

import torch
from step_time import add_model_arguments, build

from nnunet_ima.attacks.boundary import Boundary, bpgd
from nnunet_ima.attacks.frozen import frozen
from nnunet_ima.cli.common import device_name, positive
from nnunet_ima.segmentation.loader import sample_ids


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--batches", type=positive, default=4, help="batches to attack; default: 4")
    return parser.parse_args()


def attacked(trainer: Any, batch: dict[str, Any], dtype: torch.dtype) -> Boundary:
    """BPGD of the batch within its margins, under autocast to `dtype`."""
    known = [sample if sample in trainer.ima.store else None for sample in sample_ids(batch)]
    margin = torch.tensor([trainer.ima.store.get([sample]).item() if sample else 0.0 for sample in known])
    device = trainer.device
    with (
        trainer._single_output(),
        frozen(trainer.network),
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
    ):
        return bpgd(
            trainer.network,
            batch["data"].to(device),
            batch["target"][0].to(device),
            margin.to(device),
            objective=trainer.ima_objective,
        )


def main() -> None:
    args = parse()
    device_name(args.device)
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # noqa: SIM112 (nnU-Net's spelling)
        trainer = build(args)
        batches = [next(trainer.dataloader_train) for _ in range(args.batches)]
        found = {
            dtype: [attacked(trainer, batch, dtype) for batch in batches]
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        }
        trainer.on_train_end()
    exact = found[torch.float32]
    print(f"\n{'':<16}{'same outcome':>14}{'error, median':>16}{'95 %':>9}{'mean distance off by':>24}")
    for dtype in (torch.bfloat16, torch.float16):
        print(row(dtype, exact, found[dtype]))


def row(dtype: torch.dtype, exact: list[Boundary], other: list[Boundary]) -> str:
    """Share of slices that are correct and cross alike, and the relative error of the distances of those that cross."""
    same = torch.cat([(a.correct == b.correct) & (a.crossed == b.crossed) for a, b in zip(exact, other, strict=True)])
    pairs = [(a.distance, b.distance, a.crossed & b.crossed) for a, b in zip(exact, other, strict=True)]
    true = torch.cat([distance[both] for distance, _, both in pairs])
    reduced = torch.cat([distance[both] for _, distance, both in pairs])
    error = (reduced - true).abs() / true.clamp_min(1e-6)
    bias = (reduced.mean() / true.mean() - 1).item()
    name = str(dtype).removeprefix("torch.")
    return f"{name:<16}{same.float().mean():>14.1%}{error.median():>16.2%}{error.quantile(0.95):>9.1%}{bias:>24.2%}"


if __name__ == "__main__":
    main()
