"""A classifier's training step by every method, in float16 with a gradient scaler, and its evaluation."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nnunet_ima.classification.data import Images
from nnunet_ima.classification.robustness import FOOLBOX, answers, attacks, distances, white_noise
from nnunet_ima.classification.settings import Settings
from nnunet_ima.classification.train import Training
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.registry import methods
from tests.accelerator.backend import NAME
from tests.accelerator.device import Accelerator

SIZE = 40


def images(count: int = 4) -> Images:
    """The upper or the lower half is brighter."""
    x = 0.3 + 0.1 * torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % 2
    for row, label in enumerate(y.tolist()):
        x[row, :, label * SIZE // 2 : (label + 1) * SIZE // 2] += 0.3
    return Images(x, y, [str(row) for row in range(count)], [""] * count)


def training(word: str, folder: Path, scale: float = 2.0**8) -> Any:
    """A run on the device as it is on CUDA: autocast to float16, a gradient scaler."""
    few: dict[str, Any] = {} if word == "ce" else {"steps": 3}
    few |= {
        "iaat": {"warm_up": 0},
        "mail": {"burn_in": 0},
        "mailtrades": {"burn_in": 0},
        "mailmart": {"burn_in": 0},
        "gairat": {"burn_in": 0},
    }.get(word, {})
    level = None if word in ("ce", "smd", "iaat") else 2.0
    settings = Settings(word, 2, SIZE, batch_size=4, noise_max=level, method_settings=few)
    made = Training(settings, folder, images(), images(), ["upper", "lower"], torch.device(NAME))
    made.scaler = torch.amp.GradScaler(NAME, init_scale=scale)
    return made


def half() -> Any:
    return mock.patch.object(Training, "_autocast", lambda self: torch.autocast(NAME, torch.float16))


def weights(run: Any) -> list[torch.Tensor]:
    return [value.cpu().clone() for value in run.model.state_dict().values()]


WORDS = [pytest.param(word, marks=[] if word == "ima" else pytest.mark.slow) for word in methods()]


@pytest.mark.parametrize("word", WORDS)
def test_an_epoch_its_checkpoint_and_an_overflow(word: str, tmp_path: Path, device: Accelerator) -> None:
    run = training(word, tmp_path)
    before = weights(run)
    with half():
        run.run()
    assert any(not torch.equal(old, new) for old, new in zip(before, weights(run), strict=True))
    assert all(torch.isfinite(value).all() for value in weights(run))
    state = torch.load(tmp_path / "checkpoint_final.pth", weights_only=True)
    again = training(word, tmp_path, 2.0**60)
    with half():
        again._step(images().x.to(NAME), images().y.to(NAME), images().names)
    # The first step of a run whose gradients overflow: nothing is moved, nothing is noted.
    assert all(torch.equal(old, new) for old, new in zip(before, weights(again), strict=True))
    assert again.method.tally.samples == 0
    if isinstance(again.method, Adaptive):
        assert not any(vars(again.method.outcomes).values())
    again.load_state(state)
    assert again.epoch == 2


NAMES = [
    pytest.param(name, marks=[] if name == "pgd" else pytest.mark.slow)
    for name in attacks(2, "l2")
    if name not in FOOLBOX
]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_finds_what_it_finds_on_the_cpu(name: str, tmp_path: Path, device: Accelerator) -> None:
    model = training("ce", tmp_path).model.eval()
    attack = attacks(2, "l2")[name]
    found = answers(model, images(), attack, 1.0, torch.device(NAME), batch_size=3)
    expected = answers(model.to("cpu"), images(), attack, 1.0, torch.device("cpu"), batch_size=3)
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_distances_and_white_noise(tmp_path: Path, device: Accelerator) -> None:
    model, here = training("ce", tmp_path).model.eval(), torch.device(NAME)
    distance, points = distances(model, images(), 3.0, "l2", here, steps=3)
    assert len(distance) == 4 and points.shape == images().x.shape
    assert 0 <= white_noise(model, images(), 0.05, here) <= 1
