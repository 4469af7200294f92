"""Two moons: decision boundaries of plain, vanilla adversarial and IMA training side by side (IMA paper, Fig. 6).

    python scripts/moons.py --output moons.png

Trains exactly as the paper: 20,000 points, a small network, 30 epochs of batch 128, Adam, noise up to 0.3. A boundary
that lies in the middle is equally far from both classes; the table says how far it is from each, and the accuracy
under 100-PGD.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from nnunet_ima.attacks import CrossEntropy, bpgd, pgd
from nnunet_ima.cli.common import positive
from nnunet_ima.files import replacing
from nnunet_ima.margins import MarginStore
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.plain import Plain
from nnunet_ima.methods.vanilla import Vanilla
from nnunet_ima.plots import new_figure

NOISE = 0.3
LEVELS = (0.0, 0.1, 0.2, 0.3)
SPREAD = 0.05
"""Standard deviation of the points around their moons."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("moons.png"), help="default: moons.png")
    parser.add_argument("--epochs", type=positive, default=30)
    parser.add_argument("--points", type=positive, default=20000, help="training points; default: 20000")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = make_moons(count, noise=SPREAD, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(y).long()


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2, 32), nn.LeakyReLU(), nn.Linear(32, 64), nn.LayerNorm(64), nn.LeakyReLU(), nn.Linear(64, 128),
        nn.LayerNorm(128), nn.LeakyReLU(), nn.Linear(128, 2),
    )  # fmt: skip


def methods(count: int, epochs: int) -> dict[str, Plain | Vanilla | IMA]:
    step = NOISE / epochs
    return {
        "ce": Plain(),
        "adv": Vanilla(NOISE),
        "ima": IMA(MarginStore(range(count), initial=step, expansion=step, maximum=NOISE)),
    }


def train(model: nn.Module, method: Any, x: Tensor, y: Tensor, epochs: int, name: str) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in tqdm(range(epochs), name, leave=False):
        for rows in torch.randperm(len(x)).split(128):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            logits = model(x[rows])
            loss = functional.cross_entropy(logits, y[rows])
            if not method.is_off:
                twins = method.noisy_twins(model, x[rows], y[rows], rows.tolist(), CrossEntropy())
                noisy = None
                if len(twins.x):
                    noisy = functional.cross_entropy(model(twins.x.detach()), y[rows][twins.index])
                loss = method.mix(loss, noisy, len(twins.x) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        method.end_epoch()


def measure(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Accuracy (percent) at `LEVELS` under 100-PGD, and the median distance of the boundary from each class."""
    accuracy = []
    for level in LEVELS:
        noisy = pgd(model, x, y, level, steps=100, generator=torch.Generator().manual_seed(0))
        accuracy.append(100 * float((model(noisy).argmax(1) == y).float().mean()))
    found = bpgd(model, x, y, 1.5, steps=150, alpha=2.0)
    crossing = found.crossed & found.correct
    return accuracy, [float(found.distance[crossing & (y == label)].median()) for label in (0, 1)]


def draw(models: dict[str, nn.Module], x: Tensor, y: Tensor, path: Path) -> None:
    figure = new_figure(4 * len(models), 3.4)
    columns, rows = np.meshgrid(np.linspace(-1.6, 2.6, 300), np.linspace(-1.2, 1.7, 220))
    grid = torch.from_numpy(np.stack([columns.ravel(), rows.ravel()], 1)).float()
    for axes, (name, model) in zip(figure.subplots(1, len(models)), models.items(), strict=True):
        with torch.no_grad():
            lead = (model(grid) @ torch.tensor([-1.0, 1.0])).reshape(rows.shape).numpy()
        axes.contourf(columns, rows, lead > 0, levels=[-0.5, 0.5, 1.5], colors=["#d1e5f0", "#fddbc7"])
        axes.contour(columns, rows, lead, [0.0], colors="black")
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
    print("accuracy (%) under 100-PGD, and the median distance of the boundary from each class")
    print(f"{'':6}" + "".join(f"{level:>8g}" for level in LEVELS) + f"{'class 0':>10}{'class 1':>10}{'off middle':>12}")
    for name, method in methods(len(x), args.epochs).items():
        model = build(args.seed)
        train(model, method, x, y, args.epochs, name)
        accuracy, (first, second) = measure(model.eval(), test_x, test_y)
        off = abs(first - second) / (first + second)
        print(f"{name:6}" + "".join(f"{value:8.2f}" for value in accuracy) + f"{first:10.3f}{second:10.3f}{off:12.1%}")
        models[name] = model
    draw(models, test_x, test_y, args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
