import math
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch.nn import functional

from nnunet_ima.classification.train import ClassificationBatch
from nnunet_ima.methods.ima import IMA
from nnunet_ima.methods.method import Run, Tally
from tests.models import LinearModel, at_distances, batch_of, linear_model

IDS: list[Hashable] = ["a", "b", "c", "d", "e"]


def begun(ids: list[Hashable] = IDS, step: float = 1.0, noise: float = 1.0, **settings: Any) -> IMA:
    ima = IMA(noise=noise, margin_step=step, **settings)
    ima.begin(Run(ids, epochs=10))
    return ima


def test_the_loss_is_the_formula_of_the_paper() -> None:
    """(0.7 * sum of the clean losses + 0.3 * sum of the twins' losses) / 4, recomputed from the twins themselves."""
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [0.5, 3.0, 0.9, 5.0])
    y = model.label(x)
    batch = batch_of(model, x, y, ["a", "b", "c", "d"])
    found = begun(beta=0.3).boundary(batch)
    assert found.crossed.tolist() == [True, False, True, False]
    clean = functional.cross_entropy(model(x), y, reduction="sum")
    noisy = functional.cross_entropy(model(found.x[[0, 2]]), y[[0, 2]], reduction="sum")
    loss = begun(beta=0.3).loss(batch)
    assert loss.item() == pytest.approx(((0.7 * clean + 0.3 * noisy) / 4).item(), rel=1e-5)


def test_without_a_twin_the_clean_loss_still_weighs_one_minus_beta() -> None:
    model = linear_model((2, 3))
    x = at_distances(model, (2, 3), [3.0, 3.0])
    batch = batch_of(model, x, model.label(x), ["a", "b"])
    expected = 0.7 * functional.cross_entropy(model(x), model.label(x))
    assert begun(beta=0.3).loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("beta", "maximum", "off"), [(0.0, 1.0, True), (0.5, 0.0, True), (0.5, 1.0, False)])
def test_beta_zero_or_largest_margin_zero_switches_the_method_off(beta: float, maximum: float, off: bool) -> None:
    assert begun(noise=maximum, beta=beta).is_off is off


def test_one_epoch_moves_each_margin_by_what_the_attack_showed() -> None:
    model = linear_model((2, 3))
    # a crosses, b holds, c is wrong without noise, x has no margin, e crosses.
    x = at_distances(model, (2, 3), [0.5, 3.0, 0.5, 0.5, 0.9])
    y = model.label(x)
    y[2] = 1 - y[2]
    ima = begun(noise=10)
    ima.step = 0.25
    found = ima.boundary(batch_of(model, x, y, ["a", "b", "c", "x", "e"]))

    assert found.crossed.tolist() == [True, False, False, False, True]
    torch.testing.assert_close(model.distance(found.x[[0, 4]]), torch.zeros(2), rtol=0, atol=2e-4)
    assert not found.x.requires_grad
    assert ima.outcomes.held == {"b": [1.25]}
    assert set(ima.outcomes.crossed) == {"a", "e"}
    assert ima.outcomes.crossed["a"] == pytest.approx([0.75], abs=2e-4)
    assert ima.tally == Tally(5, eligible=4, correct=3, crossed=2, attack_steps=3 + 20 + 5)

    tally = ima.end_epoch()
    assert tally.samples == 5 and tally.seconds > 0
    expected = torch.tensor([0.75, 1.25, 1.0, 1.0, 0.95])
    torch.testing.assert_close(ima.store.get(IDS), expected.double(), rtol=0, atol=2e-4)
    assert ima.tally == Tally()
    assert not ima.outcomes.held
    assert not ima.outcomes.crossed


def test_a_sample_is_attacked_within_its_own_margin() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5, 0.5])
    ima = begun(["near", "far"], step=0.4, noise=10)
    ima.outcomes.note(["far"], [False], [0.6])
    ima.end_epoch()
    y = model.label(x)
    assert ima.boundary(batch_of(model, x, y, ["near", "far"])).crossed.tolist() == [False, True]
    assert ima.boundary(batch_of(model, x, y, ["far", "near"])).crossed.tolist() == [True, False]


def test_a_batch_in_which_no_sample_has_a_margin_has_no_twins() -> None:
    model = linear_model((4,))
    x = at_distances(model, (4,), [0.5, 0.5])
    ima = begun()
    assert not ima.boundary(batch_of(model, x, model.label(x), ["x", "y"])).crossed.any()
    assert ima.tally == Tally(samples=2)
    assert ima.end_epoch().shares()["correct"] == 0.0
    assert ima.store.get(IDS).tolist() == [1.0] * 5


def test_the_precision_context_is_open_during_the_attack_and_closed_after_it() -> None:
    model = linear_model((4,))
    seen: list[bool] = []
    model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    x = at_distances(model, (4,), [0.5, 0.5])
    ima = begun()
    batch = ClassificationBatch(x, model.label(x), ["a", "b"], model, lambda: torch.autocast("cpu", torch.bfloat16))
    seen.clear()
    ima.boundary(batch)
    assert seen
    assert all(seen)
    assert not torch.is_autocast_enabled("cpu")


def test_tally_gives_shares_of_the_samples_that_could_be_attacked() -> None:
    tally = Tally(samples=10, eligible=8, correct=4, crossed=3, attack_steps=20, seconds=1.0, drawn=10, forwards=130)
    tally.merge(Tally(samples=2, eligible=2, correct=1, crossed=1, attack_steps=5, seconds=0.5, drawn=2, forwards=14))
    assert tally == Tally(12, 10, 5, 4, 25, 1.5, 12, 144)
    shares = {"correct": 0.5, "crossed": 0.8, "attack_steps": 5.0, "attack_seconds": 1.5, "cost": 12.0}
    assert tally.shares() == shares
    assert set(Tally().shares().values()) == {0.0}


def train(maximum: float, epochs: int) -> tuple[IMA, LinearModel, torch.Tensor]:
    """Logistic regression on two clouds whose closest points are 2 apart, on the axis x_0 = 0."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(16, 2, generator=generator) * torch.tensor([0.5, 2.0]) - torch.tensor([0.0, 1.0])
    spread[:2, 0] = 0
    side = torch.tensor([1.0, -1.0]).repeat(8)
    x = torch.stack([side * (1 + spread[:, 0]), spread[:, 1]], 1)
    y = (side > 0).long()
    model = LinearModel(torch.tensor([1.0, 1.0]), bias=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids: list[Hashable] = list(range(16))
    ima = begun(ids, step=0.1, noise=maximum)
    for _ in range(epochs):
        for _ in range(3):
            optimizer.zero_grad()
            ima.loss(batch_of(model, x, y, ids)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ima.end_epoch()
    return ima, model, x


def test_training_grows_margins_to_the_largest_where_the_classes_are_far_apart() -> None:
    ima, model, x = train(maximum=0.6, epochs=30)
    assert ima.store.margins.tolist() == pytest.approx([0.6] * 16)
    assert model.distance(x).min() > 0.6


def test_training_ends_with_the_margins_at_the_distance_of_the_boundary() -> None:
    ima, model, x = train(maximum=10.0, epochs=60)
    # Shrinking stops at the distance, and one expansion may lie on top of it.
    torch.testing.assert_close(ima.store.get(ima.store.ids).float(), model.distance(x), rtol=0, atol=0.15)
    # The boundary has moved to the middle between the classes: 1 from the closest point of either.
    closest = model.distance(x)[:2]
    assert closest.tolist() == pytest.approx([1.0, 1.0], abs=0.15)
    assert math.isclose(abs(model.weight[0].item()) / model.weight.norm().item(), 1.0, abs_tol=0.05)
