"""A classifier under noise: accuracy, sensitivity, specificity and AUC, clean and attacked."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunet_ima.attacks import CrossEntropy, Margin, apgd, ball, bpgd, pgd, square
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.frozen import frozen
from nnunet_ima.attacks.objective import Objective
from nnunet_ima.attacks.precision import attack_precision
from nnunet_ima.classification.data import Images
from nnunet_ima.classification.model import Classifier
from nnunet_ima.classification.settings import BOUNDS
from nnunet_ima.errors import UserError
from nnunet_ima.metrics.statistics import resampled

FOOLBOX = ("ddn", "fmn")
"""Of Foolbox: they look for the least noise that turns an image."""

CHUNK = 500
"""Resamples taken at a time: they count how often each image was drawn."""

Attack = Callable[[Classifier, Tensor, Tensor, float, Sequence[torch.Generator]], list[Tensor]]
"""(model, x, y, level, one generator per image) -> the candidates of each image, of which the worst counts."""


def _from_the_image(
    steps: int, alpha: float, norm: Norm, model: Classifier, x: Tensor, y: Tensor, level: float, draws: Any
) -> list[Tensor]:
    return [pgd(model, x, y, level, norm=norm, steps=steps, alpha=alpha, random_start=False, bounds=BOUNDS)]


def _climb(
    attack: Callable[..., Tensor],
    steps: int,
    norm: Norm,
    objective: Objective,
    model: Classifier,
    x: Tensor,
    y: Tensor,
    level: float,
    draws: Any,
) -> list[Tensor]:
    return [attack(model, x, y, level, objective=objective, norm=norm, steps=steps, bounds=BOUNDS, generator=draws)]


def _in_turn(
    climbs: Sequence[Attack], model: Classifier, x: Tensor, y: Tensor, level: float, draws: Sequence[torch.Generator]
) -> list[Tensor]:
    """Where each attack ends; it takes on the images that the ones before it have left right."""
    points: list[Tensor] = []
    held = torch.arange(len(x), device=x.device)
    for climb in climbs:
        if points and len(held):
            # In float32, as the answers are counted: an image that is broken in bfloat16 only still holds.
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                held = held[model(points[-1][held]).argmax(1) == y[held]]
        point = points[-1].clone() if points else x.clone()
        if len(held):
            (point[held],) = climb(model, x[held], y[held], level, [draws[row] for row in held.tolist()])
        points.append(point)
    return points


def _random(norm: Norm, model: Classifier, x: Tensor, y: Tensor, level: float, draws: Any) -> list[Tensor]:
    return [(x + level * ball.random_direction(x, draws, norm)).clamp(*BOUNDS)]


def _foolbox(
    name: str, steps: int, norm: Norm, model: Classifier, x: Tensor, y: Tensor, level: float, draws: Any
) -> list[Tensor]:
    """An attack of Foolbox (Rauber et al.), whose perturbation is then shortened to the noise level."""
    import foolbox

    kinds = {
        ("fmn", "l2"): foolbox.attacks.L2FMNAttack,
        ("fmn", "linf"): foolbox.attacks.LInfFMNAttack,
        ("ddn", "l2"): foolbox.attacks.DDNAttack,
    }
    wrapped = foolbox.PyTorchModel(model, bounds=BOUNDS, device=x.device)
    with frozen(model), torch.enable_grad():
        return [kinds[name, norm](steps=steps)(wrapped, x, y, epsilons=level)[1].detach()]


def check_foolbox(names: Sequence[str], norm: Norm) -> None:
    """UserError where an attack of Foolbox is wanted that is not installed or not defined for this norm."""
    wanted = [name for name in names if name in FOOLBOX]
    if wanted and importlib.util.find_spec("foolbox") is None:
        raise UserError(f"--attack {wanted[0]} is Foolbox's: install it with pip install 'nnunet-ima[foolbox]'.")
    if "ddn" in wanted and norm != "l2":
        raise UserError(f"--attack ddn is defined for the norm l2, this run has {norm}: leave it out.")


def attacks(steps: int, norm: Norm) -> dict[str, Attack]:
    """By name, in the order of their strength; Foolbox's at the end.

    pgd: on cross-entropy and on the margin loss (methods: Sec. 4.3). strong: after AutoAttack, with one radius per
    image, Auto-PGD on both losses, and Square, which sees the model's output only.
    """
    losses = (CrossEntropy(), Margin())
    unseen: Attack = partial(_climb, square, 5 * steps, norm, Margin())
    return {
        "random": partial(_random, norm),
        "fgsm": partial(_from_the_image, 1, 1.0, norm),
        "ifgsm": partial(_from_the_image, steps, 4.0, norm),
        "pgd": partial(_in_turn, [partial(_climb, pgd, steps, norm, one) for one in losses]),
        "square": unseen,
        "strong": partial(_in_turn, [*(partial(_climb, apgd, steps, norm, one) for one in losses), unseen]),
        **{name: partial(_foolbox, name, steps, norm) for name in FOOLBOX},
    }


@dataclass
class Answers:
    """probabilities: (N, classes) under the noise that harms most; right: (N,)."""

    probabilities: NDArray[np.float64]
    right: NDArray[np.bool_]


def answers(
    model: Classifier,
    images: Images,
    attack: Attack | None,
    level: float,
    device: torch.device,
    batch_size: int = 64,
    seed: int = 0,
) -> Answers:
    """What the model says of each image under the attack at this level. An image's noise does not depend on the
    others."""
    found = []
    for start in tqdm(range(0, len(images), batch_size), f"noise {level:g}", leave=False, dynamic_ncols=True):
        rows = slice(start, start + batch_size)
        x, y = images.x[rows].to(device), images.y[rows].to(device)
        draws = [torch.Generator().manual_seed(seed * 1_000_003 + row) for row in range(start, start + len(x))]
        with attack_precision(device, "auto"):
            candidates = [x] if attack is None or level == 0 else attack(model, x, y, level, draws)
        with torch.no_grad():
            each = torch.stack([model(candidate).float().softmax(1) for candidate in candidates])
        # The candidate that leaves least to the true class, by its lead over the best other.
        true = each.gather(2, y.view(1, -1, 1).expand(len(each), -1, 1)).squeeze(2)
        others = each.scatter(2, y.view(1, -1, 1).expand(len(each), -1, 1), -1.0).amax(2)
        worst = (true - others).argmin(0)
        found.append(each[worst, torch.arange(len(x), device=device)].cpu())
    probabilities = torch.cat(found).double().numpy()
    return Answers(probabilities, probabilities.argmax(1) == images.y.numpy())


def white_noise(model: Classifier, images: Images, amplitude: float, device: torch.device, seed: int = 0) -> float:
    """Share of the images that the model gets right and white noise, uniform within +-amplitude, turns (App. A)."""
    generator = torch.Generator().manual_seed(seed)
    flipped = right = 0
    for start in range(0, len(images), 64):
        x, y = images.x[start : start + 64], images.y[start : start + 64].to(device)
        noise = amplitude * (2 * torch.rand(x.shape, generator=generator) - 1)
        with torch.no_grad():
            clean = model(x.to(device)).argmax(1) == y
            noisy = model((x + noise).clamp(*BOUNDS).to(device)).argmax(1) == y
        right += int(clean.sum())
        flipped += int((clean & ~noisy).sum())
    return flipped / max(right, 1)


def figures(found: Answers, images: Images, classes: Sequence[str]) -> dict[str, Any]:
    """In percent, with 95 % intervals over patients (images, where these are unknown; None for one patient alone):
    accuracy; sensitivity of each class (its recall; of the second of two it is the specificity of the first); for two
    the AUC of the first."""
    y = images.y.numpy()
    groups = [group or name for group, name in zip(images.groups, images.names, strict=True)]
    result: dict[str, Any] = {"accuracy": _with_interval(found.right, groups)}
    for number, name in enumerate(classes):
        rows = y == number
        own = [group for group, row in zip(groups, rows, strict=True) if row]
        other = f" = specificity {classes[0]}" if len(classes) == 2 and number == 1 else ""
        result[f"sensitivity {name}{other}"] = _with_interval(found.right[rows], own)
    if len(classes) == 2:
        result["auc"] = auc_with_interval(found.probabilities[:, 0], y == 0, groups)
    return result


Figure = list[float | None]
"""Value, and the ends of its interval: None where there is none."""


def _with_interval(right: NDArray[np.bool_], groups: Sequence[str], seed: int = 0) -> Figure:
    """[mean, low, high] in percent: percentile bootstrap of groups; no interval for a single one."""
    if len(set(groups)) < 2:
        return _percent(right.mean())
    number_of, draws = resampled(groups, seed=seed)
    sums = np.stack([np.bincount(number_of, right), np.bincount(number_of)], 1)
    total = draws @ sums
    return _percent(right.mean(), total[:, 0] / total[:, 1].clip(1))


def _percent(value: float, found: NDArray[Any] | None = None) -> Figure:
    """The value with the 2.5 and 97.5 % percentiles of what resamples gave, None where there are none."""
    limits = (None, None) if found is None else np.percentile(found, [2.5, 97.5]).tolist()
    return [None if number is None else round(100 * float(number), 2) for number in (value, *limits)]


def auc_with_interval(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], groups: Sequence[str], seed: int = 0
) -> Figure:
    """[AUC, low, high] in percent: percentile bootstrap of groups; no interval for a single one. The AUC is the share
    of pairs (positive, negative) that the scores order rightly; in a resample a pair counts as often as both its images
    were drawn."""
    first, second = scores[positive][:, None], scores[~positive][None]
    ordered = ((first > second) + 0.5 * (first == second)).astype(np.float32)
    if len(set(groups)) < 2:
        return _percent(ordered.mean())
    number_of, draws = resampled(groups, seed=seed)
    found = []
    for start in range(0, len(draws), CHUNK):
        drawn = draws[start : start + CHUNK, number_of].astype(np.float32)
        of_first, of_second = drawn[:, positive], drawn[:, ~positive]
        pairs = of_first.sum(1) * of_second.sum(1)
        usable = pairs > 0
        found.append((((of_first @ ordered) * of_second).sum(1)[usable]) / pairs[usable])
    return _percent(ordered.mean(), np.concatenate(found))


def distances(
    model: Classifier, images: Images, largest: float, norm: Norm, device: torch.device, steps: int = 20
) -> tuple[Tensor, Tensor]:
    """Of each image the noise level at which BPGD crosses the boundary (inf where it does not within `largest`, 0
    where the model is wrong already), and the images there."""
    found, points = [], []
    for start in range(0, len(images), 64):
        x, y = images.x[start : start + 64].to(device), images.y[start : start + 64].to(device)
        boundary = bpgd(model, x, y, largest, norm=norm, steps=steps, bounds=BOUNDS)
        distance = torch.where(boundary.crossed, boundary.distance, torch.inf)
        found.append(torch.where(boundary.correct, distance, 0.0).cpu())
        points.append(boundary.x.cpu())
    return torch.cat(found), torch.cat(points)
