"""Tries to break a certificate: noise within its radius against the smoothed model, at random and by its gradient.

    python scripts/try_certificate.py -d D4 -tr nnUNetTrainerIMA -p nnUNetPlansIMA --certify 0.25

Of each slice the pixels that `nnunet-ima-eval --certify` certifies at `--threshold`. Half of the tries are noise of a
random direction whose norm is the radius. The others climb, in runs of 50 steps on that sphere, the cross-entropy of
the certified pixels averaged over Gaussian noise, which is the gradient of the smoothed model. Each try asks for
`--answers` new answers. A certified pixel must keep its majority; with so few answers one that is near to losing it may
seem to lose it by chance, so that a break counts where the binomial test is sure (1 in 1000 over all tries and pixels).
"""

import argparse
import zlib

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional

from nnunet_ima.attacks import ball
from nnunet_ima.attacks.frozen import frozen
from nnunet_ima.cli.common import nnunet_folder, positive, run
from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.certify import holds, majority, most_pixels, radius, reachable
from nnunet_ima.evaluation.evaluate import Choice, Subject, prepare
from nnunet_ima.nnunet.dataset_names import dataset_name
from nnunet_ima.segmentation.cases.models import find_models

RUN = 50
"""Steps of a climb, each of which is a try."""
SURE = 0.001


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set")
    parser.add_argument("-tr", required=True, help="trainer")
    parser.add_argument("-p", help="plans")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--certify", type=float, required=True, metavar="SIGMA")
    parser.add_argument("--certify-samples", type=positive, default=300)
    parser.add_argument("--threshold", type=float, default=0.75, help="one of nnunet-ima-eval's; default: 0.75")
    parser.add_argument("--tries", type=positive, default=1000, help="per slice; default: 1000")
    parser.add_argument("--answers", type=positive, default=100, help="per try; default: 100")
    parser.add_argument("--slices", type=positive, default=5, help="drawn from the cases; default: 5")
    parser.add_argument("--cases", default="test", help="as for nnunet-ima-eval; default: test")
    return parser.parse_args(arguments)


def directions(shape: tuple[int, ...], tries: int, generator: torch.Generator) -> Tensor:
    return ball.random_direction(torch.zeros(tries, *shape), generator)


class Smoothed:
    """The smoothed model on one slice. certified: bool (H, W); guess: the class of each pixel, (H, W)."""

    def __init__(self, subject: Subject, row: int, args: argparse.Namespace) -> None:
        place = subject.slices.places[row]
        (item,) = subject.slices.read([place])
        self.name, self.target, self.sigma = f"{place.case} {place.number}", subject.target, args.certify
        self.x = item.image[None].to(subject.target.device)
        self.generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        samples = args.certify_samples
        guess, agreeing = majority(self.target, self.x, self.sigma, samples, self.generator, 100)
        sure = holds(agreeing, torch.ones_like(agreeing, dtype=torch.bool), samples, args.threshold)
        self.guess, self.certified = guess[0], sure[0]

    def answers(self, delta: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of so many answers at x + delta: votes for the class of each pixel, and the gradient by delta of the
        cross-entropy of the certified ones."""
        noise = torch.randn(count, *self.x.shape[1:], generator=self.generator).to(self.x.device)
        delta = delta.detach().requires_grad_()
        logits = self.target.network(self.x + delta + self.sigma * noise)
        labels = self.guess.expand(count, *self.guess.shape)
        loss = functional.cross_entropy(logits, labels, reduction="none")[:, self.certified].mean()
        (gradient,) = torch.autograd.grad(loss, delta)
        return (logits.argmax(1) == labels).sum(0), gradient


def least_votes(smoothed: Smoothed, size: float, tries: int, answers: int) -> list[Tensor]:
    """Of each try the votes (pixels,) that the certified pixels' classes keep."""
    found, climbs = [], tries // 2
    for direction in directions(tuple(smoothed.x.shape[1:]), tries - climbs, smoothed.generator):
        kept, _ = smoothed.answers(size * direction[None], answers)
        found.append(kept[smoothed.certified])
    delta = torch.zeros_like(smoothed.x)
    for step in range(climbs):
        if step % RUN == 0:
            delta = size * directions(tuple(smoothed.x.shape[1:]), 1, smoothed.generator).to(smoothed.x)
        kept, gradient = smoothed.answers(delta, answers)
        found.append(kept[smoothed.certified])
        moved = delta + 0.3 * size * gradient / gradient.norm().clamp_min(1e-12)
        delta = size * moved / moved.norm().clamp_min(1e-12)
    return found


def try_certificate(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    preprocessed = nnunet_folder("nnUNet_preprocessed")
    found = find_models(nnunet_folder("nnUNet_results"), dataset_name(args.d), "2d", None, [args.tr], args.p)
    choice = Choice((1.0,), cases=args.cases)
    subject = prepare(found[0], choice, preprocessed, torch.device(args.device))
    if subject.target.objective().regions:
        raise UserError(f"-d {args.d} has regions: this script tries labels only.")
    if args.threshold not in reachable(args.certify_samples, most_pixels(subject)):
        raise UserError(f"--threshold {args.threshold:g} cannot be certified with {args.certify_samples} answers.")
    size = radius(args.certify, args.threshold)
    drawn = np.random.default_rng(0).choice(len(subject.slices), min(args.slices, len(subject.slices)), replace=False)
    print(
        f"{found[0]}: sigma {args.certify:g}, radius {size:.3f}, {args.tries} tries of {args.answers} answers a slice"
    )
    print("| slice | pixels certified | least share of votes that one keeps | lost by vote | lost for sure |")
    print("|---|---|---|---|---|")
    with frozen(subject.target.network):
        for row in sorted(drawn.tolist()):
            smoothed = Smoothed(subject, row, args)
            kept = torch.stack(least_votes(smoothed, size, args.tries, args.answers)).numpy()
            sure = binom.cdf(kept, args.answers, 0.5) < SURE / kept.size
            certified = f"{int(smoothed.certified.sum())} of {smoothed.certified.numel()}"
            lost = int((2 * kept < args.answers).any(0).sum())
            share = 100 * kept.min() / args.answers
            print(f"| {smoothed.name} | {certified} | {share:.0f} % | {lost} | {int(sure.any(0).sum())} |", flush=True)


def main() -> None:
    run(try_certificate)


if __name__ == "__main__":
    main()
