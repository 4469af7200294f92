import io
import math
import pickle
import random
from collections.abc import Hashable
from typing import Any

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.methods.margins import MarginStore, Outcomes

IDS: list[Hashable] = [("case", 0), ("case", 1), ("other", 0)]


def store(initial: float = 2.0, maximum: float = 10.0) -> MarginStore:
    return MarginStore(IDS, initial, maximum)


def seen(*visits: tuple[Hashable, bool, float]) -> Outcomes:
    outcomes = Outcomes()
    for sample, crossed, proposed in visits:
        outcomes.note([sample], [crossed], [proposed])
    return outcomes


def test_every_margin_starts_at_the_initial_one_but_not_above_the_maximum() -> None:
    assert store().get(IDS).tolist() == [2.0, 2.0, 2.0]
    assert store(initial=30.0).get(IDS).tolist() == [10.0, 10.0, 10.0]


def test_get_follows_the_order_asked_for() -> None:
    margins = store()
    margins.update(seen((IDS[2], True, 1.5)))
    assert margins.get([IDS[2], IDS[0], IDS[2]]).tolist() == [1.5, 2.0, 1.5]
    assert margins.get([]).shape == (0,)
    assert margins.get(IDS).dtype == torch.float64


def test_get_refuses_a_sample_without_margin() -> None:
    assert ("case", 2) not in store()
    assert ("case", 1) in store()
    with pytest.raises(KeyError):
        store().get([("case", 2)])


def test_a_margin_moves_to_what_was_proposed_and_the_unseen_stays() -> None:
    margins = store()
    margins.update(seen((IDS[0], False, 4.0), (IDS[1], True, 1.25)))
    assert margins.get(IDS).tolist() == [4.0, 1.25, 2.0]
    assert margins.visits.tolist() == [1, 1, 0]


def test_margins_never_leave_zero_to_maximum() -> None:
    margins = store()
    margins.update(seen((IDS[0], False, -1.0), (IDS[1], True, 50.0)))
    assert margins.get(IDS).tolist() == [0.0, 10.0, 2.0]
    endless = MarginStore(IDS, 2.0)
    endless.update(seen((IDS[0], False, 1e6)))
    assert endless.get(IDS).tolist() == [1e6, 2.0, 2.0]


def test_any_crossing_wins_and_proposals_are_averaged() -> None:
    margins = store()
    margins.update(seen((IDS[0], False, 9.0), (IDS[0], True, 1.0), (IDS[0], False, 9.0), (IDS[0], True, 0.5)))
    assert margins.get(IDS).tolist() == [0.75, 2.0, 2.0]


def test_a_sample_seen_often_moves_once() -> None:
    margins = store()
    margins.update(seen(*[(IDS[0], False, 4.0)] * 5))
    assert margins.get(IDS).tolist() == [4.0, 2.0, 2.0]
    assert margins.visits.tolist() == [1, 0, 0]


def test_the_order_of_the_outcomes_does_not_matter() -> None:
    visits: list[tuple[Hashable, bool, float]] = [(IDS[i % 2], i % 3 > 0, 0.1 * i + 1e-9 / (i + 1)) for i in range(30)]
    results = []
    for seed in range(4):
        random.Random(seed).shuffle(visits)
        margins = store()
        margins.update(seen(*visits))
        results.append(margins.margins)
    assert all(torch.equal(result, results[0]) for result in results)


def test_ranks_that_exchange_their_outcomes_equal_one_process() -> None:
    visits: list[tuple[Hashable, bool, float]] = [
        (IDS[0], True, 0.3),
        (IDS[0], False, 0.0),
        (IDS[1], False, 0.0),
        (IDS[0], True, 0.9),
        (IDS[1], False, 0.0),
    ]
    alone, together = store(), store()
    alone.update(seen(*visits))
    first, second = seen(*visits[:2]), seen(*visits[2:])
    first.merge(pickle.loads(pickle.dumps(second)))
    together.update(first)
    assert torch.equal(alone.margins, together.margins)
    assert torch.equal(alone.visits, together.visits)


def test_noting_refuses_columns_of_different_length() -> None:
    with pytest.raises(ValueError):
        Outcomes().note(IDS, [True], [1.0])


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("ids", [IDS, ["a.png", "b.png", "c.png"], [7, 8, 9]])
def test_margins_survive_a_checkpoint_whatever_the_order_of_the_samples(ids: list[Hashable]) -> None:
    before, after = MarginStore(ids, 2, 10), MarginStore(ids[::-1], 5, 10)
    before.update(seen((ids[0], True, 1.5), (ids[1], False, 4.0)))
    after.load_state(saved_and_loaded(before.state()))
    assert after.get(ids).tolist() == before.get(ids).tolist() == [1.5, 4.0, 2.0]
    assert after.visits.tolist() == [0, 1, 1]


def test_the_state_is_a_copy() -> None:
    margins = store()
    state = margins.state()
    margins.update(seen((IDS[0], False, 0.0)))
    assert state["margins"].tolist() == [2.0, 2.0, 2.0]
    assert state["visits"].tolist() == [0, 0, 0]


def test_a_loaded_margin_is_clipped_to_the_maximum_now_set() -> None:
    smaller = store(maximum=1.5)
    smaller.load_state(store().state())
    assert smaller.get(IDS).tolist() == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [("case", 0), ("case", 1), ("foreign", 0)]},
        {"ids": [("case", 0), ("case", 1)], "margins": torch.ones(2), "visits": torch.ones(2).long()},
        {"ids": [*IDS, ("case", 0)], "margins": torch.ones(4), "visits": torch.ones(4).long()},
        {"margins": torch.ones(2)},
        {"visits": torch.ones(2).long()},
        {"margins": torch.tensor([1.0, -1.0, 1.0])},
        {"margins": torch.tensor([1.0, math.nan, 1.0])},
        {"margins": torch.tensor([1.0, math.inf, 1.0])},
    ],
    ids=["foreign", "missing", "twice", "too few margins", "too few visits", "negative", "nan", "inf"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    margins = store()
    with pytest.raises(UserError, match="stored margins"):
        margins.load_state(store(initial=3.0).state() | change)
    assert margins.get(IDS).tolist() == [2.0, 2.0, 2.0]
    assert margins.visits.tolist() == [0, 0, 0]


def test_duplicate_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="ids must name every sample once"):
        MarginStore(["a", "b", "a"], 1, 1)


@pytest.mark.parametrize("name", ["initial", "maximum"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_negative_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="initial and maximum must not be negative"):
        store(**{name: value})


def test_repr_tells_size_mean_and_maximum() -> None:
    assert repr(store()) == "MarginStore(3 samples, mean margin 2.000, at most 10)"
    assert len(MarginStore([], 1, 1)) == 0
    assert "0 samples" in repr(MarginStore([], 1, 1))
