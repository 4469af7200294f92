"""Every attack with every objective: float32 gives bit for bit what the CPU gives, float16 a point within the level."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks import CrossEntropy, Margin, Objective, apgd, ball, bpgd, frequency, padam, pgd, spsa, square
from nnunet_ima.attacks.apgd import SCHEDULE
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.attacks.ddn import ddn
from nnunet_ima.attacks.walk import walk
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.ensemble import STRONG
from nnunet_ima.segmentation.objectives.weighted import (
    CosineObjective,
    CosPGDObjective,
    SegPGDObjective,
    VanishObjective,
)
from tests.accelerator.backend import NAME
from tests.accelerator.device import Accelerator
from tests.models import generators

SAMPLES, SIZE = 3, 16
L2: tuple[Norm, float] = ("l2", 3.0)
LINF: tuple[Norm, float] = ("linf", 0.3)
Attack = Callable[..., Tensor]
ATTACKS: dict[str, Attack] = {
    "pgd": lambda *given, draws, **told: pgd(*given, steps=3, generator=draws, **told),
    "bpgd": lambda *given, draws, **told: bpgd(*given, steps=3, bisections=2, **told).x,
    "bpgd from a random start": lambda *given, draws, **told: (
        bpgd(*given, steps=3, bisections=2, random_start=True, generator=draws, **told).last_correct
    ),
    "apgd": lambda *given, draws, **told: apgd(*given, steps=6, generator=draws, **told),
    "apgd in phases": lambda *given, draws, **told: apgd(*given, steps=6, schedule=SCHEDULE, generator=draws, **told),
    "padam": lambda *given, draws, **told: padam(*given, steps=3, generator=draws, **told),
    "frequency": lambda *given, draws, bounds, **told: frequency(*given, steps=3, generator=draws, **told),
    "walk": lambda *given, draws, **told: (
        walk(
            *given,
            steps=3,
            patience=1,
            random_start=True,
            generator=draws,
            breakable=torch.tensor([True] * SAMPLES).to(given[1].device),
            **told,
        ).x
    ),
    "ddn": lambda model, x, y, level, draws, norm, **told: ddn(model, x, y, steps=4, **told),
    "square": lambda *given, draws, **told: square(*given, steps=6, generator=draws, **told),
    "spsa": lambda *given, draws, **told: spsa(*given, steps=2, samples=8, generator=draws, **told),
}
OBJECTIVES: dict[str, type[SegmentationObjective]] = {
    "dice": SegmentationObjective,
    "segpgd": SegPGDObjective,
    "cospgd": CosPGDObjective,
    "cosine": CosineObjective,
    "vanish": VanishObjective,
    **STRONG,
}
LAYOUTS = {
    "labels": (2, False, None),
    "ignored pixels": (2, False, 3),
    "regions": (2, True, None),
    "regions and ignored pixels": (2, True, 3),
}
RULES = ("mean", "max", "merged")


class Bright(nn.Module):
    """Logits (N, K, H, W) that rise with the brightness around a pixel, by a trainable convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.smooth = nn.Conv2d(1, 4, 3, padding=1)
        self.answer = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 4 * self.answer(torch.tanh(self.smooth(x)))
        return logits


class Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(SIZE * SIZE, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def references(model: nn.Module, x: Tensor, objective: SegmentationObjective) -> Tensor:
    """What the model says itself, some pixels outside of the image or ignored, the last sample without foreground."""
    y: Tensor
    with torch.no_grad():
        logits = model(x)
    if objective.regions:
        y = (logits > 0).float()
        if objective.ignore_label is not None:
            y = torch.cat([y, torch.zeros_like(y[:, :1])], 1)
            y[:, -1, :3] = 1
        y[-1, : objective.num_foreground] = 0
        return y
    y = logits.argmax(1, keepdim=True).float()
    y[-1] = 0
    y[:, :, :2] = -1
    if objective.ignore_label is not None:
        y[:, :, 2:4] = objective.ignore_label
    return y


def segmented(kind: str, layout: str, rule: Any = "mean") -> tuple[nn.Module, Tensor, Tensor, SegmentationObjective]:
    """Model, images, references and objective, on the CPU."""
    foreground, regions, ignored = LAYOUTS[layout]
    objective = OBJECTIVES[kind](foreground, regions, ignored, 0.6, rule)
    if isinstance(objective, VanishObjective):
        objective = objective.making_vanish(1)
    model = Bright(foreground if regions else foreground + 1)
    x = torch.randn(SAMPLES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return model, x, references(model, x, objective), objective


def classified(objective: Objective) -> tuple[nn.Module, Tensor, Tensor, Objective]:
    model = Classes()
    x = torch.rand(SAMPLES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1).detach(), objective


def attacked(
    name: str,
    norm: tuple[Norm, float],
    device: str,
    case: tuple[nn.Module, Tensor, Tensor, Any] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """What an attack makes of a case on a device."""
    model, x, y, objective = case or segmented("dice", "ignored pixels")
    told = {"objective": objective, "norm": norm[0], "bounds": bounds, "draws": generators(list(range(SAMPLES)))}
    return ATTACKS[name](model.to(device), x.to(device), y.to(device), norm[1], **told)


def agrees(name: str, norm: tuple[Norm, float], make: Callable[[], Any], bounds: Any = None) -> None:
    """float32 as on the CPU; float16 within the level."""
    found = attacked(name, norm, NAME, make(), bounds)
    assert found.device.type == NAME
    assert torch.equal(found.cpu(), attacked(name, norm, "cpu", make(), bounds))
    with torch.autocast(NAME, torch.float16):
        half = attacked(name, norm, NAME, make(), bounds).cpu()
    moved = ball.size(half - make()[1], norm[0])
    assert torch.isfinite(half).all() and half.dtype == torch.float32
    if name != "ddn":
        assert (moved <= norm[1] * (1 + 1e-5)).all()


def norms_of(name: str) -> tuple[tuple[Norm, float], ...]:
    return (L2,) if name in ("ddn", "frequency") else (L2, LINF)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_in_both_norms(name: str, device: Accelerator) -> None:
    for norm in norms_of(name):
        agrees(name, norm, lambda: segmented("dice", "ignored pixels"))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_on_classifiers(name: str, device: Accelerator) -> None:
    for norm in norms_of(name):
        agrees(name, norm, lambda: classified(CrossEntropy()), bounds=(0.0, 1.0))
        agrees(name, norm, lambda: classified(Margin()), bounds=(0.0, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_attack_on_every_objective(kind: str, layout: str, device: Accelerator) -> None:
    for name in ATTACKS:
        for norm in norms_of(name):
            agrees(name, norm, lambda: segmented(kind, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_objectives_say_is_what_they_say_on_the_cpu(layout: str, device: Accelerator) -> None:
    for kind in OBJECTIVES:
        for rule in RULES:
            model, x, y, objective = segmented(kind, layout, rule)
            logits = model(x).detach()
            there = logits.to(NAME), y.to(NAME)
            for what in ("loss", "correct", "badness", "slice_dice", "counts", "lead", "soft_dice"):
                here = getattr(objective.at(0.5), what)(logits, y)
                torch.testing.assert_close(
                    getattr(objective.at(0.5), what)(*there).cpu(), here, rtol=0, atol=0, equal_nan=True
                )
            for found, expected in zip(objective.targets(there[1]), objective.targets(y), strict=True):
                assert torch.equal(found.cpu(), expected)
