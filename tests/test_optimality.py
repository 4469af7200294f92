"""`scripts/optimality.py`: AttackBench's figure against closed forms, and both tables on a small network."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_ima.evaluation.noises import Settings
from tests.evaluation.test_sweep import InMemory, slices, target

LEVELS = [0.0, 1.0, 3.0]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    try:
        return importlib.import_module("optimality")
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize(
    ("curve", "envelope", "expected"),
    [
        # The attack is the best of all; it changes nothing.
        ([0.8, 0.4, 0.2], [0.8, 0.4, 0.2], 1.0),
        ([0.8, 0.8, 0.8], [0.8, 0.4, 0.2], 0.0),
        # Areas by hand: 1 and 2 wide trapezoids. Envelope 0.6 + 0.6 = 1.2, curve 0.7 + 1.0 = 1.7, nothing 2.4.
        ([0.8, 0.6, 0.4], [0.8, 0.4, 0.2], 1 - 0.5 / 1.2),
        # The envelope reaches 0 at level 1: what happens beyond counts for nobody. 0.4, against 0.6 and 0.8.
        ([0.8, 0.4, 0.1], [0.8, 0.0, 0.0], 1 - 0.2 / 0.4),
        ([0.8, 0.4, 0.4], [0.8, 0.0, 0.0], 1 - 0.2 / 0.4),
    ],
)
def test_optimality_by_hand(script: ModuleType, curve: list[float], envelope: list[float], expected: float) -> None:
    assert script.optimality(LEVELS, np.array(curve), np.array(envelope)) == pytest.approx(expected)


@pytest.mark.parametrize("envelope", [[0.8, 0.8, 0.8], [0.0, 0.0, 0.0]], ids=["nothing breaks", "nothing stands"])
def test_where_no_attack_changes_anything_there_is_no_optimality(script: ModuleType, envelope: list[float]) -> None:
    assert math.isnan(script.optimality(LEVELS, np.array(envelope), np.array(envelope)))


def test_curves_count_slices_above_60_percent_and_a_slice_never_recovers(script: ModuleType) -> None:
    dice = script.cumulative(np.array([[0.9, 0.7], [0.6, 0.65], [0.7, 0.3]]))
    assert dice.tolist() == [[0.9, 0.7], [0.6, 0.65], [0.6, 0.3]]
    curves = script.curves(dice)
    assert curves["standing"].tolist() == [1.0, 0.5, 0.0]
    assert curves["dice"].tolist() == pytest.approx([0.8, 0.625, 0.45])


def test_the_tables_by_hand(script: ModuleType) -> None:
    """The envelope takes each slice from whoever breaks it: it lies below both curves."""
    found = {"pgd": np.array([[0.8, 0.8], [0.8, 0.4]]), "strong": np.array([[0.8, 0.8], [0.2, 0.8]])}
    table = script.optimality_table([0.0, 2.0], found, {"pgd": 10.0, "strong": 12.4})
    # Shares that stand: 1 to 0.5 for each, 1 to 0 for both. Dice: 0.6 and 0.5, 0.3 for both, so (0.8 - 0.6) / 0.5.
    assert table[2:] == [
        "| pgd | 10 | 0.500 | 0.400 | 60.0 |",
        "| strong | 12 | 0.500 | 0.600 | 50.0 |",
        "| lower envelope |  | 1 | 1 | 30.0 |",
    ]
    control = np.array([[0.8, 0.8], [0.1, 0.8]])
    assert script.union_table([0.0, 2.0], found, control)[2:] == [
        "| strong | 50.0 |",
        "| strong and pgd | 30.0, 1 |",
        "| strong and strong, twice the forwards | 45.0, 1 |",
    ]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_every_attack_pays_no_more_than_it_may(
    script: ModuleType, norm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forwards and gradients as counted, of a network that no noise so small breaks: no attack ends before its time."""
    settings = Settings(norm=norm)  # type: ignore[arg-type]
    subject = SimpleNamespace(target=target(), slices=_Counted(slices()), settings=settings)
    script.compare_optimality(subject, [1e-3], 40)
    table = capsys.readouterr().out.splitlines()
    rows = [row.split(" | ") for row in table if row.startswith("| ")]
    paid = {row[0].removeprefix("| "): int(row[1]) for row in rows if len(row) > 3 and row[1].isdigit()}
    names = {*script.FULL_BALL, *(f"frequency {low:g} to {high:g}" for low, high in script.BANDS if norm == "l2")}
    assert paid.keys() == names
    assert all(36 <= count <= 40 for count in paid.values()), paid
    assert "5 slices, at most 40 forwards" in table[0] and "| strong and padam-cos | " in "\n".join(table)
    assert torch.is_grad_enabled()


class _Counted(InMemory):
    def __len__(self) -> int:
        return len(self.places)
