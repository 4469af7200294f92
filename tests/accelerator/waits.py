"""How often the host waits for the device: what is allowed, and `python -m tests.accelerator.waits`, which shows the
places.

    python -m tests.accelerator.waits            all measurements
    python -m tests.accelerator.waits bpgd pgd   some of them

A wait costs a GPU little where it is alone; a wait per step, and all the more per step and sample, leaves it idle.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_ima.attacks import apgd, bpgd, pgd, square
from nnunet_ima.attacks.ball import Norm
from nnunet_ima.classification.data import Images
from nnunet_ima.classification.settings import Settings
from nnunet_ima.classification.train import Training
from tests.accelerator import backend
from tests.accelerator.device import Accelerator
from tests.models import Curved, at_distances, generators, linear_model

AT_MOST = {"bpgd": 24, "pgd": 4, "apgd": 4, "square": 4, "square linf": 4, "ima classifier": 10, "ima trainer": 10}
"""Waits by measurement: of BPGD one per step, for who crossed leaves; of no other attack any per step."""
STEPS, SAMPLES = 20, 4
SHAPE = (1, 8, 8)


def unbroken(samples: int) -> tuple[Curved, Tensor, Tensor]:
    """A model on the device, images, and what it says of them; noise of norm 1e-6 turns none."""
    torch.manual_seed(0)
    model = Curved(64).to(backend.NAME)
    x = torch.rand(samples, *SHAPE).to(backend.NAME)
    return model, x, model(x).argmax(1).detach()


def attack(run: Callable[..., Any], device: Accelerator, samples: int = SAMPLES, **arguments: Any) -> None:
    """An attack of 20 steps, the level a plain number, on samples that are right and all stay so."""
    model, x, y = unbroken(samples)
    device.reset()
    run(model, x, y, 1e-6, steps=STEPS, **arguments)


def seeded(run: Callable[..., Any], device: Accelerator, samples: int = SAMPLES, norm: Norm = "l2") -> None:
    """The same, with a generator per sample for its random start, as in an evaluation."""
    attack(run, device, samples, norm=norm, generator=generators(list(range(samples))))


def ima_classifier(device: Accelerator) -> None:
    """One training step of a classifier: four images, all right, which all cross in the second step of the attack."""
    margin = 5.0
    model = linear_model(SHAPE)
    # A step is alpha / steps = 0.2 of the margin.
    x = at_distances(model, SHAPE, [0.3 * margin] * SAMPLES)
    images = Images(x, model.label(x), [str(number) for number in range(SAMPLES)], [""] * SAMPLES)
    settings = Settings(method="ima", noise_max=margin, method_settings={"margin_step": margin}, batch_size=SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(settings, Path(folder), images, images, ["no", "yes"], torch.device(backend.NAME))
    # The intensities of this model have no range.
    training.method.bounds = None
    training.model = model.to(backend.NAME)  # type: ignore[assignment]
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
    batch = x.to(backend.NAME), images.y.to(backend.NAME), images.names
    device.reset()
    training._step(*batch)
    tally = training.method.tally
    assert (tally.crossed, tally.attack_steps) == (SAMPLES, 2 * SAMPLES), tally


MEASUREMENTS: dict[str, Callable[[Accelerator], None]] = {
    "bpgd": partial(attack, bpgd),
    "pgd": partial(seeded, pgd),
    "apgd": partial(seeded, apgd),
    "square": partial(seeded, square),
    "square linf": partial(seeded, square, norm="linf"),
    "ima classifier": ima_classifier,
}
"""Each counts from its `device.reset()` on. A training step in nnU-Net's loop needs a data set: inside/training.py."""


def counted(name: str) -> Accelerator:
    """The device after a measurement."""
    with Accelerator() as device:
        MEASUREMENTS[name](device)
    return device


def table(name: str, device: Accelerator) -> str:
    """The waits of a measurement, and where they are: place, kind, count."""
    lines = [f"{name}: {device.waits.total()} waits, at most {AT_MOST[name]}"]
    lines += [f"{number:6d}  {place}  {kind}" for (place, kind), number in sorted(device.waits.items())]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    for name in names or MEASUREMENTS:
        print(table(name, counted(name)), end="\n\n")


if __name__ == "__main__":
    reason = backend.missing()
    if reason:
        sys.exit(reason)
    main(sys.argv[1:])
