"""Our attacks beside those of torchattacks, adv-lib and ART: strength, seconds, forwards and gradients, in one run.

    pip install --no-deps torchattacks adv-lib adversarial-robustness-toolbox
    python scripts/compare_attacks.py -d D4 -tr nnUNetTrainerPlain -p nnUNetPlansIMA --noise 5

First table: a trained nnU-Net model, the same slices, noise level, steps and step size, no random start
(adv-lib's Auto-PGD knows none without). All see images
in [0, 1] (an affine map in front of the network), with room on both sides, so that clipping never matters. What takes
class labels only (adv-lib, ART) sees the mean cross-entropy of the pixels as a problem of two classes, whose gradient
has the same direction. Second table: a small classifier of scikit-learn's digits, Square and Auto-PGD.

    python scripts/compare_attacks.py -d D4 -tr nnUNetTrainerPlain -p nnUNetPlansIMA --optimality 2,5,10 --forwards 400

Our attacks among themselves, which needs no other package: AttackBench's optimality at equal forwards, and what each of
them finds that `strong` does not. See `optimality.py`.
"""

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
from types import ModuleType

import numpy as np
import torch
from alma import compare_alma
from optimality import Counted, compare_optimality
from torch import Tensor, nn
from torch.nn import functional

from nnunet_ima.attacks import Margin, Objective, apgd, pgd, square
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.precision import autocast, native_bfloat16
from nnunet_ima.cli.common import device_name, nnunet_folder, noise_levels, positive
from nnunet_ima.evaluation.evaluate import Choice, Subject, prepare
from nnunet_ima.evaluation.noises import Settings
from nnunet_ima.metrics.indices import average_dice_index
from nnunet_ima.nnunet.dataset_names import dataset_name
from nnunet_ima.segmentation.cases.models import find_models
from nnunet_ima.segmentation.cases.slices import batches
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective

Attack = Callable[[], Tensor]
# adv-lib imports a plotting server that none of its attacks needs and that does not build everywhere.
sys.modules.setdefault("visdom", ModuleType("visdom"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set")
    parser.add_argument("-tr", required=True, help="trainer")
    parser.add_argument("-p", help="plans")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--noise", type=float, default=5.0, help="L2 norm, SD; default: 5")
    parser.add_argument("--steps", type=positive, default=100, help="default: 100 (adv-lib's Auto-PGD takes no other)")
    parser.add_argument("--slices", type=positive, default=32)
    parser.add_argument("--repeats", type=positive, default=5, help="the median time counts; default: 5")
    parser.add_argument("--cases", default="test", help="as for nnunet-ima-eval; default: test")
    parser.add_argument(
        "--optimality", type=noise_levels, metavar="2,5,10", help="compare our attacks at these noise levels instead"
    )
    parser.add_argument(
        "--alma", type=float, metavar="LARGEST", help="compare ALMA prox with `smallest`, L-infinity noise up to this"
    )
    parser.add_argument("--norm", choices=["l2", "linf"], default="l2", help="of --optimality; default: l2")
    parser.add_argument(
        "--forwards", type=positive, default=400, help="of each attack with --optimality, a gradient counts as one more"
    )
    return parser.parse_args()


class PixelCrossEntropy(SegmentationObjective):
    """What the others climb: the mean cross-entropy of the pixels; the point of its maximum is kept."""

    worst = float("inf")

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        pixel, valid = self.pixel_loss(logits.float(), y)
        return (pixel * valid[:, 0]).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)

    def badness(self, logits: Tensor, y: Tensor) -> Tensor:
        return Objective.badness(self, logits, y)


class TwoClasses(nn.Module):
    """Logits (-L, 0), where L is the mean cross-entropy of each slice: label 0 is harmed by raising L."""

    def __init__(self, model: nn.Module, y: Tensor, objective: SegmentationObjective) -> None:
        super().__init__()
        self.model, self.y, self.objective = model, y, objective

    def forward(self, x: Tensor) -> Tensor:
        loss = self.objective.loss(self.model(x), self.y)
        return torch.stack([-loss, torch.zeros_like(loss)], 1)


def segmentation_attacks(
    model: Counted, u: Tensor, y: Tensor, epsilon: float, steps: int, labels: Tensor, whole: SegmentationObjective
) -> dict[str, Attack]:
    """By name, the attacks on slices `u` in [0, 1]; whole: our own default objective."""
    import torchattacks
    from adv_lib.attacks.auto_pgd import apgd as their_apgd
    from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
        ProjectedGradientDescentPyTorch,
    )
    from art.estimators.classification import PyTorchClassifier

    pixels = PixelCrossEntropy(whole.num_foreground, whole.regions, whole.ignore_label)
    adapter, zeros = TwoClasses(model, y, pixels), torch.zeros(len(u), dtype=torch.long, device=u.device)
    step = 4 * epsilon / steps
    theirs = torchattacks.PGDL2(model, eps=epsilon, alpha=step, steps=steps, random_start=False)
    classifier = PyTorchClassifier(
        adapter, nn.CrossEntropyLoss(), u.shape[1:], 2, clip_values=(0, 1), device_type="gpu" if u.is_cuda else "cpu"
    )
    art = ProjectedGradientDescentPyTorch(
        classifier, norm=2, eps=epsilon, eps_step=step, max_iter=steps, batch_size=len(u), verbose=False
    )
    one_hot = np.eye(2, dtype=np.float32)[zeros.cpu().numpy()]

    def ours_by_default() -> Tensor:
        with autocast(u.device, native_bfloat16(u.device)):
            return pgd(model, u, y, epsilon, objective=whole, steps=steps, random_start=False)

    return {
        "torchattacks PGDL2": lambda: theirs(u, labels),
        "ART PGD": lambda: torch.from_numpy(art.generate(u.cpu().numpy(), one_hot)).to(u.device),
        "adv-lib APGD": lambda: their_apgd(adapter, u, zeros, epsilon, norm=2, loss_function="ce", best_loss=True),
        "pgd, same loss": lambda: pgd(model, u, y, epsilon, objective=pixels, steps=steps, random_start=False),
        "apgd, same loss": lambda: apgd(model, u, y, epsilon, objective=pixels, steps=steps, random_start=False),
        "pgd, as it is used": ours_by_default,
    }


def compare_on_slices(subject: Subject, args: argparse.Namespace) -> None:
    slices = subject.slices.read(max(batches(subject.slices.places, args.slices), key=len))
    x, y = (torch.stack(parts).to(args.device) for parts in zip(*((s.image, s.reference) for s in slices), strict=True))
    low, width = float(x.min()) - args.noise, float(x.max() - x.min()) + 2 * args.noise
    assert isinstance(subject.target.network, nn.Module)
    model = Counted(subject.target.network, low, width).eval()
    u, epsilon = (x - low) / width, args.noise / width
    whole = subject.target.objective()
    pixels = PixelCrossEntropy(whole.num_foreground, whole.regions, whole.ignore_label)
    attacks = segmentation_attacks(model, u, y, epsilon, args.steps, y[:, 0].clamp_min(0).long(), whole)
    rows: dict[str, list[tuple[float, int, int]]] = {name: [] for name in attacks}
    found = {}
    for attack in attacks.values():
        attack()
    for _ in range(args.repeats):
        for name, attack in attacks.items():
            model.forwards = model.gradients = 0
            started = perf_counter()
            found[name] = attack()
            if args.device == "cuda":
                torch.cuda.synchronize()
            rows[name].append((perf_counter() - started, model.forwards, model.gradients))
    print(f"{len(u)} slices, {args.steps} steps of 4 * {args.noise:g} / {args.steps}, L2, {args.device}")
    print(f"{'':22}{'CE':>9}{'ADI %':>9}{'norm':>9}{'seconds':>9}{'forwards':>10}{'gradients':>10}   per slice")
    for name, times in rows.items():
        with torch.no_grad():
            logits = model(found[name].float())
            loss, dice = pixels.loss(logits, y).mean(), average_dice_index(whole.counts(logits, y).cpu().numpy())
        norm = float((found[name] - u).flatten(1).norm(dim=1).max()) * width
        seconds, forwards, gradients = (median(column) for column in zip(*times, strict=True))
        print(
            f"{name:22}{loss:9.4f}{100 * dice:9.2f}{norm:9.3f}{seconds:9.2f}{forwards / len(u):10.1f}"
            f"{gradients / len(u):10.1f}"
        )


def digits_classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network trained on half of scikit-learn's digits (8 x 8, 0 to 1), and 300 of the rest."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    y = torch.from_numpy(labels).long()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        rows = torch.randint(0, 900, (128,))
        optimiser.zero_grad()
        loss: Tensor = functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval(), x[900:1200], y[900:1200]


def compare_on_classifier() -> None:
    import torchattacks
    from adv_lib.attacks.auto_pgd import apgd as their_apgd

    model, x, y = digits_classifier()

    def accuracy(points: Tensor) -> float:
        with torch.no_grad():
            return 100 * float((model(points).argmax(1) == y).float().mean())

    print(f"\nDigits, {len(x)} images, accuracy {accuracy(x):.1f} % without noise; accuracy (%) under attack")
    print(f"{'norm':8}{'noise':>8}{'Square':>10}{'torchattacks':>14}{'APGD':>10}{'adv-lib':>10}")
    generators = [torch.Generator().manual_seed(number) for number in range(len(x))]
    levels: tuple[tuple[Norm, float], ...] = (("l2", 0.5), ("l2", 1.0), ("linf", 0.1), ("linf", 0.2))
    for norm, epsilon in levels:
        theirs = torchattacks.Square(
            model, norm={"l2": "L2", "linf": "Linf"}[norm], eps=epsilon, n_queries=1000, loss="margin"
        )
        ours = square(
            model, x, y, epsilon, objective=Margin(), norm=norm, steps=1000, bounds=(0, 1), generator=generators
        )
        climbed = apgd(model, x, y, epsilon, norm=norm, steps=100, bounds=(0, 1), generator=generators)
        their_climbed = their_apgd(
            model, x, y, epsilon, norm=2 if norm == "l2" else np.inf, n_iter=100, loss_function="ce"
        )
        print(
            f"{norm:8}{epsilon:8g}{accuracy(ours):10.1f}{accuracy(theirs(x, y)):14.1f}"
            f"{accuracy(climbed):10.1f}{accuracy(their_climbed):10.1f}"
        )


def main() -> None:
    args = parse()
    device_name(args.device)
    # The other packages bring an OpenMP of their own, beside which torch's own threads can wait for each other forever.
    torch.set_num_threads(1)
    found = find_models(nnunet_folder("nnUNet_results"), dataset_name(args.d), "2d", None, [args.tr], args.p)
    preprocessed = nnunet_folder("nnUNet_preprocessed")
    choice = Choice((args.noise,), cases=args.cases, settings=Settings(norm=args.norm))
    subject = prepare(found[0], choice, preprocessed, torch.device(args.device))
    print(found[0])
    if args.alma:
        compare_alma(subject, args.alma, args.steps)
        return
    if args.optimality:
        compare_optimality(subject, args.optimality, args.forwards)
        return
    compare_on_slices(subject, args)
    compare_on_classifier()


if __name__ == "__main__":
    main()
