"""AMAT and Staircase on linear models, whose margins are known."""

import math
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch.nn import functional

from nnunet_ima.methods.amat import AMAT, Moments
from nnunet_ima.methods.method import Run
from nnunet_ima.methods.staircase import Staircase
from tests.models import at_distances, batch_of, linear_model

IDS: list[Hashable] = ["a", "b", "c", "d"]


def amat(**settings: Any) -> AMAT:
    method = AMAT(**{"noise": 10.0, "random_start": False, **settings})
    method.begin(Run(IDS, 10, shape=(6,)))
    return method


def test_amat_grows_where_both_are_right_and_never_shrinks() -> None:
    model = linear_model((6,))
    x = at_distances(model, (6,), [2.0, 0.5, 9.0])
    y = model.label(x)
    y[2] = 1 - y[2]
    method = amat()
    assert method.store.get(IDS).tolist() == [1.0] * 4
    loss = method.loss(batch_of(model, x, y, ["a", "b", "c"]))
    tally = method.end_epoch()
    # a held at 1, b did not, c was wrong without noise, d was not seen.
    assert method.store.get(IDS).tolist() == [2.0, 1.0, 1.0, 1.0]
    assert (tally.correct, tally.crossed) == (2, 1)
    score, norm = model.score(x).abs(), model.weight.norm()
    clean = functional.softplus(-score * torch.tensor([1.0, 1.0, -1.0]))
    noisy = functional.softplus(-(score * torch.tensor([1.0, 1.0, -1.0]) - norm))
    assert loss.item() == pytest.approx(((clean.mean() + noisy.mean()) / 2).item(), rel=1e-4)
    for _ in range(20):
        method.loss(batch_of(model, x * 20, y, ["a", "b", "c"]))
        method.end_epoch()
    assert method.store.get(["a"]).item() == 10.0, "the largest"


def test_amat_by_the_losses_of_the_epoch_before() -> None:
    model = linear_model((6,))
    x = at_distances(model, (6,), [3.0, 3.0, 0.1])
    y = model.label(x)
    method = amat(z=0.5)
    losses = functional.cross_entropy(model(x), y, reduction="none")
    method.loss(batch_of(model, x, y, ["a", "b", "c"]))
    method.end_epoch()
    assert method.store.get(IDS).tolist() == [1.0] * 4, "nothing to compare with yet"
    expected = losses.mean() + 0.5 * losses.std(correction=0)
    assert method.largest_loss == pytest.approx(expected.item(), rel=1e-4)
    method.loss(batch_of(model, x, y, ["a", "b", "c"]))
    method.end_epoch()
    assert method.store.get(IDS).tolist() == [2.0, 2.0, 1.0, 1.0]
    again = amat(z=0.5)
    again.load_state(method.state())
    assert again.largest_loss == method.largest_loss


def test_moments_of_ranks_add_up() -> None:
    first, second = Moments(), Moments()
    first.add(torch.tensor([1.0, 2.0]).double())
    second.add(torch.tensor([6.0]).double())
    first.merge(second)
    assert first.threshold(2) == pytest.approx(3 + 2 * torch.tensor([1.0, 2.0, 6.0]).std(correction=0).item())
    assert Moments().threshold(1) == -math.inf


def test_the_staircase_ends_where_samples_break() -> None:
    """Up and down by a tenth: on a model that stays as it is each margin ends within a step of the distance."""
    model = linear_model((6,))
    distances = [2.0, 0.5, 9.0, 1.0]
    x = at_distances(model, (6,), distances)
    y = model.label(x)
    y[3] = 1 - y[3]
    method = Staircase(noise=6.0, first=0.5, random_start=False)
    method.begin(Run(IDS, 10, shape=(6,)))
    assert method.store.get(IDS).tolist() == [3.0] * 4
    for _ in range(40):
        method.loss(batch_of(model, x, y, IDS))
        method.end_epoch()
    a, b, c, d = method.store.get(IDS).tolist()
    assert (a, b) == (pytest.approx(2.0, rel=0.12), pytest.approx(0.5, rel=0.12))
    assert c == 6.0, "it holds beyond the largest"
    assert d == 3.0, "wrong without noise"


def test_the_staircase_trains_on_noise_where_a_sample_is_right_and_on_the_sample_where_it_is_not() -> None:
    model = linear_model((6,))
    x = at_distances(model, (6,), [2.0, 2.0])
    y = model.label(x)
    y[1] = 1 - y[1]
    method = Staircase(noise=3.0, first=0.5, random_start=False)
    method.begin(Run(["a", "b"], 10, shape=(6,)))
    loss = method.loss(batch_of(model, x, y, ["a", "b"]))
    score, norm = model.score(x).abs(), model.weight.norm()
    expected = (functional.softplus(-(score[0] - 1.5 * norm)) + functional.softplus(score[1])) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
