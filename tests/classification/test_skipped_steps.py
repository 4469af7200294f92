"""Steps of a classifier that the gradient scaler leaves out because gradients overflowed: no visit of an image."""

from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from nnunet_ima.classification.data import Images
from nnunet_ima.classification.settings import Settings
from nnunet_ima.classification.train import Training
from nnunet_ima.methods.method import Tally, settings_of
from nnunet_ima.methods.registry import methods

SIZE = 40
QUICK = {"steps": 2, "bisections": 2, "burn_in": 0, "warm_up": 0}


@pytest.mark.parametrize("word", [word for word in methods() if word != "ce"])
def test_a_step_whose_gradients_overflow_is_no_visit(word: str, tmp_path: Path) -> None:
    """In float32, which needs a larger scale than float16 and a model that is wrong with confidence."""
    known = settings_of(methods()[word])
    settings = Settings(
        method=word,
        image_size=SIZE,
        noise_max=3.0 if "noise" in known else None,
        attack_precision="float32",
        method_settings={name: value for name, value in QUICK.items() if name in known},
    )
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(4, 1, SIZE, SIZE, generator=generator), torch.tensor([0, 1, 0, 1])
    images = Images(x, y, ["a", "b", "c", "d"], [""] * 4)
    training = Training(settings, tmp_path, images, images, ["no", "yes"], torch.device("cpu"))
    with torch.no_grad():
        training.model.network.fc.weight *= 100
    before = parameters_to_vector(training.model.parameters()).detach().clone()
    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    training._step(x.clone(), y, images.names)
    assert torch.equal(parameters_to_vector(training.model.parameters()), before)
    tally = training.method.tally
    assert tally == Tally(drawn=4, forwards=tally.forwards) and tally.forwards > 0, "paid for, and nothing else"
    training.method.end_epoch()
    if training.store is not None:
        assert torch.isfinite(training.store.margins).all() and not training.store.visits.any()

    training.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    training._step(x.clone(), y, images.names)
    assert not torch.equal(parameters_to_vector(training.model.parameters()), before)
    assert training.method.tally.samples >= 4
    training.method.end_epoch()
    if training.store is not None:
        assert training.store.visits.any()
