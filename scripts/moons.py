"""Two moons: decision boundaries of the training methods side by side (IMA paper, Fig. 6).

    python scripts/moons.py --output moons.png

Trains exactly as the paper: 20,000 points, a small network, 30 epochs of batch 128, Adam, noise up to 0.3. A boundary
that lies in the middle is equally far from both classes; the table says how far it is from each where it runs between
them, and the accuracy under 100-PGD.
"""

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from sklearn.datasets import make_moons
from torch import Tensor, nn
from tqdm import tqdm

from nnunet_ima.attacks import pgd
from nnunet_ima.classification.train import ClassificationBatch
from nnunet_ima.cli.common import names_among, positive
from nnunet_ima.files import replacing
from nnunet_ima.methods.method import Method, Run
from nnunet_ima.methods.registry import build, method_named, methods
from nnunet_ima.plots import new_figure

NOISE = 0.3
LEVELS = (0.0, 0.1, 0.2, 0.3)
RANGE = 4.0
"""Of the coordinates, which SMD and IAAT count in 255ths of."""
BETWEEN = 0.5
"""The gap between the moons is as wide as this: points of the boundary that are closer to both classes lie in it."""
SPREAD = 0.05
"""Standard deviation of the points around their moons."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("moons.png"), help="default: moons.png")
    known = tuple(methods())
    parser.add_argument(
        "--methods",
        type=names_among(known),
        default=("ce", "adv", "ima"),
        metavar="NAME,...",
        help=f"{', '.join(known)}; default: ce,adv,ima",
    )
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--points", type=positive, default=20000, help="training points; default: 20000")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = make_moons(count, noise=SPREAD, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(y).long()


def new_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2, 32),
        nn.LeakyReLU(),
        nn.Linear(32, 64),
        nn.LayerNorm(64),
        nn.LeakyReLU(),
        nn.Linear(64, 128),
        nn.LayerNorm(128),
        nn.LeakyReLU(),
        nn.Linear(128, 2),
    )


def begun(word: str, count: int, epochs: int) -> Method:
    """A method at the noise level `NOISE`, ready to train."""
    method = build(method_named(word), {}, NOISE, "l2")
    method.begin(Run(range(count), epochs, shape=(2,), intensity_range=lambda: RANGE))
    return method


def train(model: nn.Module, method: Method, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in tqdm(range(epochs), method.label, leave=False):
        method.start_epoch(epoch / epochs)
        for rows in torch.randperm(len(x)).split(128):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            batch = ClassificationBatch(x[rows], y[rows], rows.tolist(), model, shares=not method.is_off)
            method.loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        method.end_epoch()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> list[float]:
    """In percent, at `LEVELS` under 100-PGD."""
    found = []
    for level in LEVELS:
        noisy = pgd(model, x, y, level, steps=100, generator=torch.Generator().manual_seed(0))
        found.append(100 * float((model(noisy).argmax(1) == y).float().mean()))
    return found


def lead(model: nn.Module) -> tuple[Any, Any, Any]:
    """Columns, rows and z_1 - z_0 there, on a grid over the plane; 0 is the decision boundary."""
    columns, rows = np.meshgrid(np.linspace(-1.6, 2.6, 841), np.linspace(-1.2, 1.7, 581))
    grid = torch.from_numpy(np.stack([columns.ravel(), rows.ravel()], 1)).float()
    with torch.no_grad():
        return columns, rows, (model(grid) @ torch.tensor([-1.0, 1.0])).reshape(rows.shape).numpy()


def off_middle(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Where the boundary runs between the classes (no farther than `BETWEEN` from either): its mean distance from the
    nearest point of each, and the mean of |d_0 - d_1| / (d_0 + d_1), 0 for a boundary in the middle."""
    paths = new_figure(1, 1).subplots().contour(*lead(model), [0.0]).get_paths()
    boundary = np.concatenate([path.vertices for path in paths])
    first, second = (cKDTree(x[y == label].numpy()).query(boundary)[0] for label in (0, 1))
    between = np.maximum(first, second) < BETWEEN
    first, second = first[between], second[between]
    return float(first.mean()), float(second.mean()), float((np.abs(first - second) / (first + second)).mean())


def draw(models: dict[str, nn.Module], x: Tensor, y: Tensor, path: Path) -> None:
    wide = min(len(models), 4)
    tall = -(-len(models) // wide)
    figure = new_figure(4 * wide, 3.2 * tall)
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for unused in panels[len(models) :]:
        unused.axis("off")
    for axes, (name, model) in zip(panels, models.items(), strict=False):
        columns, rows, ahead = lead(model)
        axes.contourf(columns, rows, ahead > 0, levels=[-0.5, 0.5, 1.5], colors=["#d1e5f0", "#fddbc7"])
        axes.contour(columns, rows, ahead, [0.0], colors="black")
        axes.scatter(*x[:1000].T, c=["#2166ac" if label == 0 else "#b2182b" for label in y[:1000]], s=2)
        axes.set_title(name)
        axes.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    args = parse()
    x, y = points(args.points, args.seed)
    test_x, test_y = points(2000, args.seed + 2)
    models = {}
    print("accuracy (%) under 100-PGD, and the boundary's mean distance from each class where it runs between them")
    levels = "".join(f"{level:>8g}" for level in LEVELS)
    print(f"{'':11}{levels}{'class 0':>10}{'class 1':>10}{'off middle':>12}{'seconds':>9}")
    for word in args.methods:
        method = begun(word, len(x), args.epochs)
        model = new_network(args.seed)
        started = perf_counter()
        train(model, method, x, y, args.epochs)
        seconds = perf_counter() - started
        figures = "".join(f"{value:8.2f}" for value in accuracy(model.eval(), test_x, test_y))
        first, second, off = off_middle(model, test_x, test_y)
        print(f"{word:11}{figures}{first:10.3f}{second:10.3f}{off:12.1%}{seconds:9.0f}", flush=True)
        models[word] = model
    draw(models, test_x, test_y, args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
