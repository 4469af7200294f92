"""Several processes: each its own GPU, and its share of the work."""

from itertools import pairwise

import pytest
import torch

from nnunet_ima.evaluation.evaluate import Choice, plan, rank_device
from nnunet_ima.evaluation.sweep import Item, _cost, _work, shares
from nnunet_ima.nnunet.ranks import dealt


@pytest.mark.parametrize(("rank", "number"), [("0", 0), ("1", 1), ("3", 1)])
def test_each_rank_asks_its_own_gpu(monkeypatch: pytest.MonkeyPatch, rank: str, number: int) -> None:
    """On a machine without CUDA torch's two functions are told what one with two GPUs says."""
    current: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert rank_device("cuda") == torch.device("cuda", number)
    assert current == [torch.device("cuda", number)]
    assert rank_device("cpu") == torch.device("cpu") and len(current) == 1


BATCHES = [[None] * 32] * 9 + [[None] * 20]
"""308 slices, as of D4's test cases."""


def _costs(levels: tuple[float, ...], ranks: int, batches: list[list[None]] = BATCHES) -> list[float]:
    """Share of each rank in the cost of the plan that the command makes of these levels."""
    choice = Choice(levels)
    work = _work(plan(choice, choice.settings), batches)
    own = shares(work, batches, ranks)
    assert sorted(map(_name, work)) == sorted(_name(item) for items in own for item in items)
    for items in own:
        assert all(before[2] <= after[2] for before, after in pairwise(items))
    costs = [sum(_cost(*item, batches) for item in items) for items in own]
    return [cost / sum(costs) for cost in costs]


def _name(item: Item) -> tuple[str, tuple[float, ...], int]:
    return item[0].name, item[1], item[2]


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("levels", [(0.0, 5.0, 15.0, 25.0), (5.0, 15.0, 25.0), (1.0, 5.0, 10.0, 15.0), (5.0,)])
def test_no_rank_has_more_than_a_batch_of_work_above_another(levels: tuple[float, ...], ranks: int) -> None:
    found = _costs(levels, ranks)
    one_batch = 1 / (len(BATCHES) * sum(level > 0 for level in levels))
    assert sum(found) == pytest.approx(1) and max(found) - min(found) < 1.1 * one_batch
    if len(levels) == 4:
        assert max(found) - min(found) < {2: 0.02, 4: 0.03, 8: 0.035}[ranks]


def test_the_costliest_is_dealt_first_and_to_who_has_least() -> None:
    assert dealt([1, 9, 4, 4, 2], 2) == [[0, 1], [2, 3, 4]] and dealt([1, 9, 4, 4, 2], 1) == [[0, 1, 2, 3, 4]]
    assert dealt([5, 5], 4) == [[0], [1], [], []] and dealt([], 2) == [[], []]
