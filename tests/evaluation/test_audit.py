"""The checks of an attack: an honest model passes them, masked ones do not."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.evaluation.audit import SLICES, audit, worst_verdict
from nnunet_ima.evaluation.noises import Settings, Target, attack, random_noise
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.segmentation.cases.slices import Slice
from tests.evaluation.test_sweep import InMemory, Labels

SETTINGS = Settings(steps=25, strong_steps=25)
LEVELS = [0.0, 0.5, 1.0, 2.0, 4.0]


class Honest(nn.Module):
    """Smooths its input and labels what is bright, and what is brighter still."""

    def forward(self, x: Tensor) -> Tensor:
        smooth = nn.functional.avg_pool2d(x, 3, 1, 1)
        return 6 * torch.cat([0.5 - smooth, (smooth - 0.5) * (1.5 - smooth), 2 * (smooth - 1.5)], 1)


class Scaled(Honest):
    """Masked: logits so large that probabilities are exactly 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * super().forward(x)


class Quantised(Honest):
    """Masked: the input is rounded, which has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.round(8 * x) / 8)


class Noisy(Honest):
    """Never the same answer twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.3 * torch.randn_like(x)


def _slices(count: int = 24) -> list[Slice]:
    rows, columns = torch.meshgrid(torch.linspace(-2, 2, 24), torch.linspace(-2, 2, 24), indexing="ij")
    made = []
    for number in range(count):
        image = (2.2 * torch.exp(-((rows - 0.02 * number) ** 2) - columns**2))[None]
        with torch.no_grad():
            found = Honest()(image[None]).argmax(1)
        made.append(Slice(f"case{number // 3}", number, image, found))
    return made


def _audited(network: nn.Module, names: tuple[str, ...] = ("pgd", "strong"), **changes: Any) -> dict[str, str]:
    target = Target(network, Labels(), **changes)
    slices = _slices()
    plan = [(attack(name, SETTINGS), LEVELS) for name in names] + [(random_noise(SETTINGS), LEVELS)]
    found = sweep(target, slices, plan, 32, progress=False)
    subject = SimpleNamespace(target=target, slices=InMemory(slices), settings=SETTINGS)
    checks = audit(subject, found)  # type: ignore[arg-type]
    assert all(check["figure"] and check["wanted"] for check in checks)
    return {check["name"]: check["verdict"] for check in checks}


def test_an_honest_model_passes() -> None:
    found = _audited(Honest())
    assert set(found.values()) == {"PASS"}, found


def test_saturated_probabilities_are_seen() -> None:
    found = _audited(Scaled())
    assert found["The loss does not saturate"] != "PASS", found


@pytest.mark.slow
def test_missing_gradients_are_seen() -> None:
    found = _audited(Quantised())
    assert found["Every slice has a gradient"] == "FAIL"
    assert found["The loss rises as its gradient promises"] == "FAIL"
    assert "FAIL" in [verdict for name, verdict in found.items() if name.startswith("Square")]


@pytest.mark.slow
def test_a_random_model_is_seen() -> None:
    assert _audited(Noisy())["The same slice twice gives the same answer"] == "FAIL"


@pytest.mark.slow
def test_transfer_that_beats_the_attack_is_seen() -> None:
    found = _audited(Quantised(), surrogate=Honest())
    assert found["Transfer is not stronger than the attack"] == "FAIL"
    assert "Transfer is not stronger than the attack" not in _audited(Honest())


def test_a_weak_attack_is_seen() -> None:
    """One step of a fiftieth of the level: more of them find more."""
    target, slices = Target(Honest(), Labels()), _slices()
    weak = replace(SETTINGS, steps=2, alpha=0.3)
    plan = [(attack("ifgsm", weak), LEVELS), (random_noise(weak), LEVELS)]
    subject = SimpleNamespace(target=target, slices=InMemory(slices), settings=weak)
    checks = audit(subject, sweep(target, slices, plan, 32, progress=False))  # type: ignore[arg-type]
    assert worst_verdict(checks) != "PASS"


def test_a_model_that_finds_nothing_cannot_be_audited() -> None:
    class Blind(Honest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(0 * x)

    assert _audited(Blind()) == {}


def test_slices_are_few_and_of_many_cases() -> None:
    from nnunet_ima.evaluation.audit import _chosen

    target = Target(Honest(), Labels())
    found = sweep(target, _slices(60), [(attack("fgsm", SETTINGS), [0.0])], 32, progress=False)
    rows = _chosen(found, torch.ones(60).numpy())
    assert len(rows) == SLICES and len({found.slices[row][0] for row in rows}) == SLICES


@pytest.mark.parametrize(
    ("verdicts", "worst"), [([], "PASS"), (["PASS", "WARN"], "WARN"), (["WARN", "FAIL", "PASS"], "FAIL")]
)
def test_the_worst_verdict_counts(verdicts: list[str], worst: str) -> None:
    assert worst_verdict([{"verdict": verdict} for verdict in verdicts]) == worst
