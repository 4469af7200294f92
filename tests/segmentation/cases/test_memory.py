"""Memory is bounded by a batch and a case, not by the number of cases."""

import tracemalloc
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from nnunet_ima.evaluation.noises import Settings, Target, attack
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.segmentation.cases.cases import _LastKept
from nnunet_ima.segmentation.cases.slices import Place, Slice, Slices
from tests.evaluation.test_sweep import Labels, Network

DEPTH, SIDE = 12, 96
CASE = DEPTH * SIDE * SIDE * (4 + 2)
"""Bytes of a case: float32 image, int16 labels."""


class Generated(_LastKept):
    """Cases made anew whenever they are loaded; `loads` counts how often each was."""

    def __init__(self) -> None:
        self.loads: dict[str, int] = {}

    def _loaded(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        self.loads[case] = self.loads.get(case, 0) + 1
        rng = np.random.default_rng(int(case))
        labels = np.zeros((1, DEPTH, SIDE, SIDE), np.int16)
        labels[:, :, 20:60, 20:60] = 1
        return rng.standard_normal((1, DEPTH, SIDE, SIDE), np.float32), labels, None, {}


class Watched(Network):
    """Notes at each forward how many of the slices that were read are alive, and how much memory they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[weakref.ref[Slice]] = []
        self.alive: list[int] = []
        self.held: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        slices = [item for item in (reference() for reference in self.read) if item is not None]
        storages = {
            image.untyped_storage().data_ptr(): image.untyped_storage().nbytes()
            for item in slices
            for image in (item.image, item.reference)
        }
        self.alive.append(len(slices))
        self.held.append(sum(storages.values()))
        return super().forward(x)


def _evaluated(count: int, batch_size: int) -> tuple[int, Watched, dict[str, int]]:
    """Peak of what numpy held, the network that watched, and how often each case was loaded."""
    network, cases = Watched().eval(), Generated()
    predictor = SimpleNamespace(label_manager=Labels(), configuration_manager=SimpleNamespace(patch_size=(SIDE, SIDE)))
    noise = attack("fgsm", Settings(steps=1))
    tracemalloc.start()
    try:
        slices = Slices(predictor, cases, [str(number) for number in range(count)], "complete")

        def read(places: Sequence[Place]) -> list[Slice]:
            found = slices.read(places)
            network.read += [weakref.ref(item) for item in found]
            return found

        found = sweep(
            Target(network, Labels()), slices.places, [(noise, [0.0, 1.0])], batch_size, progress=False, read=read
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.slices) == count * DEPTH
    return peak, network, cases.loads


@pytest.mark.parametrize("batch_size", [4, 30])
def test_a_sweep_holds_one_batch_and_one_case(batch_size: int) -> None:
    few, many = _evaluated(3, batch_size), _evaluated(9, batch_size)
    assert many[0] < few[0] + CASE / 2
    for _, network, loads in (few, many):
        assert max(network.alive) == batch_size and max(network.held) == batch_size * CASE / DEPTH
        # Once to see which slices there are, once to attack them, whichever batches share the case.
        assert set(loads.values()) <= {1, 2}
