"""Mixes of two classifiers, see `evaluation.soup`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from nnunet_ima.classification.data import load, read_split
from nnunet_ima.classification.model import build
from nnunet_ima.classification.robustness import answers, attacks
from nnunet_ima.classification.settings import read_settings
from nnunet_ima.classification.train import read_checkpoint
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.soup import Mix, check_same_network, mixed_weights
from nnunet_ima.nnunet.export import new_folder


class Classifiers:
    """A plain checkpoint and a run that was hardened from it. UserError where they do not fit."""

    def __init__(self, plain: Path, run: Path, checkpoint: str, device: torch.device) -> None:
        self.settings, self.classes, data = read_settings(run)
        self.run, self.device = run, device
        self.names = (str(plain), str(run / checkpoint))
        states = read_checkpoint(plain, "--plain"), read_checkpoint(run / checkpoint)
        if states[0]["classes"] != states[1]["classes"]:
            raise UserError(f"--plain {plain} knows other classes than {run}: give what it was hardened from.")
        self.state = states[1]
        self.plain, self.hardened = states[0]["model"], states[1]["model"]
        check_same_network(self.plain, self.hardened, self.names)
        split = read_split(data, run / "split.csv")
        self.images = load(split, "validation", self.settings.image_size, self.settings.channels)
        self.model = build(len(self.classes), self.settings.channels, 0).to(device).eval()

    def measure(self, share: float, levels: Sequence[float], attack: str, steps: int) -> Mix:
        """Accuracy of a mix on the validation images, in percent."""
        self.model.load_state_dict(mixed_weights(self.plain, self.hardened, share))
        known = attacks(steps, self.settings.norm)[attack]
        right = [
            100 * float(answers(self.model, self.images, known, level, self.device).right.mean())
            for level in (0.0, *levels)
        ]
        return Mix(share, right[0], tuple(right[1:]))

    def write(self, share: float, target: Path) -> None:
        """A new run `target` with the mix, which nnunet-ima-classify evaluates."""
        with new_folder(target) as folder:
            for name in ("settings.json", "split.csv"):
                shutil.copy(self.run / name, folder)
            weights = mixed_weights(self.plain, self.hardened, share)
            kept = {name: self.state[name] for name in ("epoch", "classes")}
            torch.save(kept | {"model": weights}, folder / "checkpoint_final.pth")
