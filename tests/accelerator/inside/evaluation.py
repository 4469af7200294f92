"""The sweep with every attack and corruption, and the audit, on slices smaller and larger than the patch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_ima.evaluation.audit import _Auditor
from nnunet_ima.evaluation.corruptions import CORRUPTIONS, corruption
from nnunet_ima.evaluation.noise_names import ATTACK_NAMES
from nnunet_ima.evaluation.noises import Settings, Target, attack, random_noise
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.segmentation.cases.intensities import CTScale
from nnunet_ima.segmentation.cases.slices import Slice
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from tests.accelerator.backend import NAME
from tests.accelerator.device import Accelerator
from tests.accelerator.inside.attacks import Bright

SETTINGS = Settings(steps=3, strong_steps=6, queries=5, spsa_samples=4, spsa_steps=2, vanish=0, restarts=2)
PATCH = (16, 16)
SHAPES = {"as large as the patch": (16, 16), "smaller": (12, 20), "in tiles": (24, 28)}
LABELS: Any = SimpleNamespace(has_regions=False, ignore_label=None, foreground_labels=[1, 2])


def subject(shape: tuple[int, int], device: str) -> tuple[Target, list[Slice]]:
    """A network, the surrogate of another seed, and two slices with what the network says as their reference."""
    network, other = Bright(3), Bright(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05)
    drawn = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        references = TiledNetwork(network, PATCH)(drawn).argmax(1, keepdim=True).to(torch.int16)
    slices = [
        Slice("case", row, image, reference)
        for row, (image, reference) in enumerate(zip(drawn, references, strict=True))
    ]
    tiled, surrogate = (TiledNetwork(one.to(device), PATCH) for one in (network, other))
    return Target(tiled, LABELS, surrogate, {0: CTScale(40.0, 100.0, -1000.0, 1000.0, 1.0)}), slices


def assert_alike(name: str, shape: tuple[int, int]) -> None:
    """Counts and norms on the device are those on the CPU."""
    noise = corruption(name) if name in CORRUPTIONS else attack(name, SETTINGS) if name != "random" else None
    plan = [(noise or random_noise(SETTINGS), [0.0, 2.0])]
    found = [sweep(*subject(shape, device), plan, 2, progress=False) for device in (NAME, "cpu")]
    here, there = (next(iter(one.found.values())) for one in found)
    assert np.array_equal(here.counts, there.counts)
    np.testing.assert_allclose(here.norms, there.norms, rtol=1e-5)
    # Some corruptions leave small slices as they are.
    assert here.norms[1].min() > 0 or name in CORRUPTIONS


@pytest.mark.parametrize("name", [*ATTACK_NAMES, "random"])
def test_every_attack_of_the_sweep(name: str, device: Accelerator) -> None:
    assert_alike(name, SHAPES["smaller"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["as large as the patch", "in tiles"])
@pytest.mark.parametrize("name", [*ATTACK_NAMES, "random"])
def test_every_attack_of_the_sweep_on_other_slices(name: str, shape: str, device: Accelerator) -> None:
    assert_alike(name, SHAPES[shape])


def test_tiles(device: Accelerator) -> None:
    assert_alike("pgd", SHAPES["in tiles"])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_of_the_sweep(name: str, device: Accelerator) -> None:
    if name in ("bias-field", "ghosting", "motion", "spike"):
        pytest.importorskip("torchio")
    assert_alike(name, SHAPES["smaller"])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["smaller", "in tiles"])
def test_every_check_of_the_audit(shape: str, device: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_ima.evaluation.audit.QUERIES", 10)
    target, slices = subject(SHAPES[shape], NAME)
    auditor = _Auditor(target, SETTINGS, slices, 2.0, ["pgd", "strong"], 2)
    groups = (auditor.stability, auditor.gradients, auditor.effort, auditor.order, auditor.black_box)
    checks = [check for group in groups for check in group()] + [auditor.huge_noise_destroys(2.0)]
    # Every slice has a gradient here, so that this verdict says that gradients have come back from the device.
    assert next(check.verdict for check in checks if "has a gradient" in check.name) == "PASS"
    assert next(check.verdict for check in checks if "changes nothing" in check.name) == "PASS"
    assert len(checks) >= 10
