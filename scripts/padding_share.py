"""How much of nnU-Net's training batches is padding, and how much of the attacks' noise falls on it.

    python scripts/padding_share.py -d D4 -chk .../nnUNetTrainerIMA__nnUNetPlansIMA__2d/fold_0/checkpoint_final.pth

Padding is what lies outside of the image: what the loader adds to small slices, and what augmentation turns and scales
into a patch. nnU-Net's transforms mark it and then forget it; here they run without their last word on it.
Each attack runs twice, as in training and kept off the padding.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from step_time import add_model_arguments, build
from torch import Tensor

from nnunet_ima.attacks.boundary import bpgd
from nnunet_ima.attacks.frozen import frozen
from nnunet_ima.attacks.pgd import pgd
from nnunet_ima.cli.common import device_name, positive
from nnunet_ima.segmentation.loader import loader_of, sample_ids

Slices = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images, references, what is padding (bool), margins."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--batches", type=positive, default=8, help="batches to attack; default: 8")
    parser.add_argument("--noise", type=float, default=5.0, help="noise level of PGD; default: 5")
    return parser.parse_args()


def mark_padding(trainer: Any) -> None:
    """From now on the trainer's batches have -1 where padding is, and nowhere else."""
    loader = loader_of(trainer.dataloader_train)
    steps = loader.transforms.transforms
    steps[:] = [step for step in steps if not isinstance(step, RemoveLabelTansform)]
    load = loader._data.load_case

    def without_stored_marks(case: str) -> Any:
        """In preprocessed cases -1 marks empty pixels of the image itself."""
        data, segmentation, *others = load(case)
        return data, segmentation[:].clip(0), *others

    loader._data.load_case = without_stored_marks


def drawn(trainer: Any) -> Slices:
    """A training batch; slices without foreground have margin 0."""
    batch = next(trainer.dataloader_train)
    target = batch["target"][0]
    margins = [
        trainer.ima.store.get([sample]).item() if sample in trainer.ima.store else 0.0 for sample in sample_ids(batch)
    ]
    return batch["data"], target.clamp_min(0), (target[:, :1] < 0), torch.tensor(margins)


def attacked(trainer: Any, slices: Slices, attack: Callable[..., Tensor], spare: bool) -> Tensor:
    """The noise of an attack; spare: not on the padding."""
    x, y, padding, margin = (part.to(trainer.device) for part in slices)

    def model(points: Tensor) -> Tensor:
        # The padding is as it is, whatever the attack does to it: its gradient there is 0.
        rows = _rows(points)
        logits: Tensor = trainer.network(torch.where(padding[rows], x[rows], points) if spare else points)
        return logits

    def _rows(points: Tensor) -> Tensor:
        """Which slices these are: attacks leave slices out that are done. The nearest image is a slice's own."""
        return torch.cdist(points.detach().flatten(1), x.flatten(1)).argmin(1)

    torch.manual_seed(0)
    with trainer._single_output(), frozen(trainer.network):
        return attack(model, x, y, margin, trainer.ima_objective) - x


def main() -> None:
    args = parse()
    device_name(args.device)

    def boundary(model: Any, x: Tensor, y: Tensor, margin: Tensor, objective: Any) -> Tensor:
        return bpgd(model, x, y, margin, objective=objective).x

    def worst(model: Any, x: Tensor, y: Tensor, margin: Tensor, objective: Any) -> Tensor:
        return pgd(model, x, y, args.noise, objective=objective)

    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results  # noqa: SIM112 (nnU-Net's spelling)
        trainer = build(args)
        mark_padding(trainer)
        batches = [drawn(trainer) for _ in range(args.batches)]
        padding = torch.cat([slices[2] for slices in batches]).cpu()
        print(f"\npadding: {padding.float().mean():.1%} of the pixels, of single slices {quantiles(_share(padding))}")
        for name, attack in (("IMA's BPGD", boundary), (f"PGD at noise level {args.noise:g}", worst)):
            print(name)
            for spare in (False, True):
                noise = torch.cat([attacked(trainer, slices, attack, spare) for slices in batches]).cpu()
                print(row("kept off" if spare else "as trained", noise, padding))
        trainer.on_train_end()


def _share(padding: Tensor) -> Tensor:
    return padding.float().flatten(1).mean(1)


def quantiles(shares: Tensor) -> str:
    low, middle, high = shares.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return f"median {middle:.1%} (5 % to 95 %: {low:.1%} to {high:.1%})"


def row(name: str, noise: Tensor, padding: Tensor) -> str:
    """Of the slices with noise: their share, mean norm, and the share of the squared norm on padding."""
    squares = noise.square()
    total, outside = (part.flatten(1).sum(1) for part in (squares, squares * padding))
    moved = total > 0
    shares = outside[moved] / total[moved]
    return (
        f"  {name:<12} {moved.float().mean():.1%} of the slices, mean norm {total[moved].sqrt().mean():.3f}, on "
        f"padding {outside.sum() / total.sum():.1%} of all squares, of single slices {quantiles(shares)}"
    )


if __name__ == "__main__":
    main()
