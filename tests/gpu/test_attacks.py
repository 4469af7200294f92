"""Attacks and the noise sweep on CUDA against the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks import Boundary, CrossEntropy, Objective, apgd, bpgd, frequency, padam, pgd, spsa, square
from nnunet_ima.evaluation.noises import Settings, Target, attack, random_noise
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from tests.evaluation.test_sweep import Labels, Network, slices
from tests.gpu.device import DEVICE, GPU, cuda_only
from tests.models import Curved, generators

pytestmark = GPU

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "pgd": lambda *args, **kwargs: pgd(*args, steps=10, **kwargs),
    "apgd": lambda *args, **kwargs: apgd(*args, steps=10, **kwargs),
    "padam": lambda *args, **kwargs: padam(*args, steps=10, **kwargs),
    "frequency": lambda *args, **kwargs: frequency(*args, steps=10, **kwargs),
    "square": lambda *args, **kwargs: square(*args, steps=30, **kwargs),
    "spsa": lambda *args, **kwargs: spsa(*args, steps=5, samples=32, **kwargs),
}
OBJECTIVE = SegmentationObjective(2)


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images on which it is right, and their labels."""
    model = Curved(16)
    x = torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def segmenter() -> tuple[nn.Module, Tensor, Tensor]:
    found = slices(12)
    x, y = (torch.stack([getattr(one, name) for one in found]) for name in ("image", "reference"))
    return Network().eval(), x, y


TASKS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor, Tensor]], Objective]] = {
    "classes": (classifier, CrossEntropy()),
    "slices": (segmenter, OBJECTIVE),
}


def on(device: torch.device, task: str) -> tuple[nn.Module, Tensor, Tensor, Objective]:
    made, objective = TASKS[task]
    model, x, y = made()
    return model.to(device), x.to(device), y.to(device), objective


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in ATTACKS for norm in ("l2", "linf") if (name, norm) != ("frequency", "linf")],
)
def test_an_attack_finds_what_it_finds_on_the_cpu(name: str, norm: str, task: str, exact: None) -> None:
    """Sums in another order move a point a little, and may tip a decision: losses are compared, not pixels."""
    level = 0.5 if norm == "l2" else 0.05
    reached = []
    for device in (torch.device("cpu"), DEVICE):
        model, x, y, objective = on(device, task)
        noisy = ATTACKS[name](model, x, y, level, objective=objective, norm=norm, generator=generators([*range(12)]))
        assert noisy.device == x.device
        with torch.no_grad():
            reached.append(torch.stack([objective.loss(model(point), y).cpu() for point in (x, noisy)]))
    torch.testing.assert_close(reached[1][0], reached[0][0], rtol=1e-4, atol=1e-5)
    raised = reached[0][1] - reached[0][0]
    assert raised.mean() > 0
    assert (reached[1][1] - reached[0][1]).abs().mean() < 0.02 * raised.mean()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_boundaries_are_those_of_the_cpu(norm: str, task: str, exact: None) -> None:
    found = [searched(*on(device, task), norm=norm) for device in (torch.device("cpu"), DEVICE)]
    assert 0 < found[0].crossed.sum() < 12
    assert torch.equal(found[1].correct.cpu(), found[0].correct)
    assert torch.equal(found[1].crossed.cpu(), found[0].crossed)
    torch.testing.assert_close(found[1].distance.cpu(), found[0].distance, rtol=1e-2, atol=1e-3)


def searched(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, norm: Any = "l2") -> Boundary:
    """Boundaries within margins of which some reach it and some do not."""
    reach = (3.0 if isinstance(objective, CrossEntropy) else 20.0) * (1 if norm == "l2" else 0.1)
    margin = torch.linspace(0.05, 1.0, len(x), device=x.device) * reach
    return bpgd(model, x, y, margin, objective=objective, norm=norm, steps=10)


@pytest.mark.parametrize("task", TASKS)
def test_float16_finds_the_same_crossings(task: str, exact: None) -> None:
    model, x, y, objective = on(DEVICE, task)
    wanted = searched(model, x, y, objective)
    with torch.autocast(DEVICE.type, torch.float16):
        found = searched(model, x, y, objective)
    same = (found.crossed == wanted.crossed) & (found.correct == wanted.correct)
    assert same.sum() >= 11
    both = same & wanted.crossed
    off = (found.distance - wanted.distance).abs() / wanted.distance.clamp_min(1e-6)
    assert both.any() and off[both].median() < 0.01


def test_float16_is_not_blind_on_a_confident_classifier(exact: None) -> None:
    """Logits so far apart that float16's softmax is exactly 0 and 1: gradients must not vanish."""
    model, x, y, objective = on(DEVICE, "classes")
    with torch.no_grad():
        leads = model(x).topk(2, 1).values.diff(dim=1).abs()
        model.second.mul_(18 / leads.min())  # type: ignore[union-attr, operator]
        leads = model(x).topk(2, 1).values.diff(dim=1).abs()
    assert leads.min() > 17
    wanted = searched(model, x, y, objective)
    with torch.autocast(DEVICE.type, torch.float16):
        found = searched(model, x, y, objective)
    assert wanted.crossed.any()
    assert (found.crossed == wanted.crossed).sum() >= 11


def _swept(device: torch.device, batch_size: int, count: int = 12) -> Any:
    target = Target(Network().eval().to(device), Labels())
    settings = Settings(steps=10)
    noises = [attack("pgd", settings), random_noise(settings)]
    return sweep(target, slices(count), [(one, [0.0, 1.0]) for one in noises], batch_size, progress=False).found


def test_a_sweep_counts_what_it_counts_on_the_cpu(exact: None) -> None:
    """What is counted is counted in float32: without noise and under random noise the same pixels, but for ties that
    rounding decides. Attacks run in each device's own precision, so their noise differs; how much Dice it leaves does
    not."""
    here, there = _swept(torch.device("cpu"), 5), _swept(DEVICE, 5)
    for noise, level in (("pgd", 0), ("random", 0), ("random", 1)):
        assert np.abs(there[noise].counts[level] - here[noise].counts[level]).sum() <= 2, (noise, level)
    assert there["random"].norms == pytest.approx(here["random"].norms, rel=1e-4)
    dice = [_dice(one["pgd"].counts[1]) for one in (here, there)]
    assert dice[0] < 0.9 and dice[1] == pytest.approx(dice[0], abs=0.03)


def _dice(counts: np.ndarray) -> float:
    tp, fp, fn = counts.sum((0, 1))
    return float(2 * tp / (2 * tp + fp + fn))


@cuda_only
def test_a_batch_too_large_for_the_memory_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch, exact: None) -> None:
    """torch is given less than half of what the whole batch needs. Its blocks are of 2 MiB and more, so the batch is
    large."""
    count, sizes = 256, list[int]()
    original = Network.forward

    def noted(self: Network, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return original(self, torch.nn.functional.interpolate(x, scale_factor=16))[:, :, ::16, ::16]

    monkeypatch.setattr(Network, "forward", noted)
    found = slices(count)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = _swept_of(found, count)
    assert sizes[-1] == count
    needed = torch.cuda.max_memory_allocated() / torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    sizes.clear()
    torch.cuda.set_per_process_memory_fraction(0.45 * needed)
    try:
        parts = _swept_of(found, count)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < min(sizes) <= count // 4
    assert np.abs(parts - whole).sum() <= count // 50


def _swept_of(found: list[Any], batch_size: int) -> np.ndarray:
    target = Target(Network().eval().to(DEVICE), Labels())
    noise = random_noise(Settings())
    counts: np.ndarray = sweep(target, found, [(noise, [0.5])], batch_size, progress=False).found["random"].counts
    return counts
