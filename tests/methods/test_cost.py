"""What a step costs, for every method: counted, budgeted, and made less."""

import copy
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.errors import UserError
from nnunet_ima.methods.adaptive import Adaptive
from nnunet_ima.methods.budget import Budget
from nnunet_ima.methods.method import Method, Run, Tally
from nnunet_ima.methods.registry import build, method_named, methods
from tests.models import Curved, LinearModel, at_distances, batch_of, linear_model, recorded_sizes

WORDS = [word for word in methods() if word != "ce"]
IDS: list[Hashable] = list(range(4))


def begun(word: str, steps: int = 5, noise: float = 0.3, **settings: Any) -> Method:
    method = build(method_named(word), {"steps": steps, **settings}, noise, "l2")
    method.begin(Run(IDS, 10, shape=(6,), intensity_range=lambda: 4.0))
    return method


def stepped(method: Method, model: nn.Module, x: Tensor, y: Tensor) -> Tally:
    """The counts of one step of training, its backward pass included."""
    torch.manual_seed(0)
    method.start_step()
    loss = method.step_loss(batch_of(model, x, y, IDS))
    loss.backward()  # type: ignore[no-untyped-call]
    method.end_step(counts=True)
    return method.end_epoch()


def far_apart() -> tuple[LinearModel, Tensor, Tensor]:
    """Four samples that no attack within 0.3 breaks."""
    model = linear_model((6,))
    x = at_distances(model, (6,), [5.0] * 4)
    return model, x, model.label(x)


@pytest.mark.parametrize(
    ("word", "settings", "cost"),
    [
        # Clean forward 1, attack 6 forwards and 5 backwards to the image, noisy pass 3.
        ("adv", {"beta": 1}, 15),
        # And the clean pass backwards.
        ("adv", {"beta": 0.5}, 17),
        # The clean pass 3 serves as iterate 0 (1 backwards), 5 forwards, 4 backwards; nothing crosses.
        ("ima", {}, 13),
        ("smd", {}, 18),
        # The same, and all go to the edge of their margins.
        ("edge", {}, 14),
        ("amat", {"beta": 1}, 15),
        ("staircase", {}, 15),
        ("fat", {}, 14),
    ],
)
def test_the_cost_of_a_step_by_hand(word: str, settings: dict[str, Any], cost: float) -> None:
    tally = stepped(begun(word, **settings), *far_apart())
    assert tally.shares()["cost"] == cost and tally.drawn == 4


@pytest.mark.parametrize("word", WORDS)
def test_every_forward_of_every_method_is_counted(word: str) -> None:
    model = Curved(6)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model(x).argmax(1)
    method, sizes, backwards = begun(word), recorded_sizes(model), []
    original = method.cost._back
    method.cost._back = lambda samples: (backwards.append(samples), original(samples))[1]  # type: ignore[method-assign,func-returns-value]
    before = method.cost.forwards
    torch.manual_seed(0)
    method.start_step()
    batch = batch_of(model, x, y, IDS)
    loss = method.step_loss(batch)
    to_image = sum(backwards)
    loss.backward()  # type: ignore[no-untyped-call]
    assert method.cost.forwards - before == sum(sizes) + to_image + 2 * (sum(backwards) - to_image)
    assert sum(backwards) > to_image > 0
    method.end_step(counts=False)
    assert method.tally.forwards > 0, "a step that does not count was paid for all the same"
    assert method.tally.shares()["cost"] <= method.usual_cost + 2 * (word == "ddn") + 12


@pytest.mark.parametrize("word", WORDS)
def test_a_loss_is_repeated_on_the_noise_that_was_found(word: str) -> None:
    """With the weights where they were it is the same loss, for one training pass and without an attack."""
    model = Curved(6)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model(x).argmax(1)
    method = begun(word)
    torch.manual_seed(0)
    method.start_step()
    first = method.step_loss(batch_of(model, x, y, IDS))
    noted = copy.deepcopy((method.tally, getattr(method, "outcomes", None)))
    spent = method.cost.read()
    torch.manual_seed(0)
    again = method.repeated_loss(batch_of(model, x, y, IDS))
    assert again.item() == pytest.approx(first.item(), abs=1e-6)
    assert (method.tally, getattr(method, "outcomes", None)) == noted
    assert method.cost.read() < spent and method.cost.forwards == 0
    with torch.no_grad():
        model.first.add_(0.1)
    moved = method.repeated_loss(batch_of(model, x, y, IDS))
    assert moved.item() != pytest.approx(first.item(), abs=1e-6)


@pytest.mark.parametrize("word", WORDS)
def test_attacks_begin_with_few_steps(word: str) -> None:
    model = Curved(6)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = model(x).argmax(1)
    method = begun(word, steps=6, first_steps=2)
    seen, costs = [], []
    for epoch in range(10):
        method.start_epoch(epoch / 10)
        seen.append(method.attack_steps)
        if epoch in (0, 9):
            if isinstance(method, Adaptive):
                method.store.margins[:] = 0.01
            costs.append(stepped(method, model, x, y).forwards)
    assert seen == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert costs[0] < costs[1]
    with pytest.raises(UserError, match=f"first_steps of {method.label} must be at most its steps, 6, got 7"):
        begun(word, steps=6, first_steps=7)


@pytest.mark.parametrize("word", WORDS)
def test_what_has_stalled_is_given_up(word: str) -> None:
    """At the bottom of a flat valley no step raises the loss: with `stall` an attack ends after so many."""

    class Flat(Curved):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0 + torch.eye(3)[0] + 0 * x.sum(1, keepdim=True)

    model, x, y = Flat(6), torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    if word == "ddn":
        # DDN goes on until a sample is broken, and then as long as its norm shrinks: here all are wrong at once.
        y = torch.ones(4, dtype=torch.long)
    all_of_them, few = (stepped(begun(word, 20, stall=stall), model, x, y) for stall in (None, 3))
    assert few.forwards < all_of_them.forwards
    assert few.shares()["cost"] <= 30


def test_a_budget_evens_out_what_epochs_took() -> None:
    budget = Budget(1000, 10)
    assert budget.steps(0, 10) == 10
    budget.spend(10, 14)
    assert budget.steps(1, 14) == round(60 / 14)
    for epoch in range(1, 10):
        budget.spend(budget.steps(epoch, 14), 14)
    assert budget.spent == pytest.approx(1000, abs=7)
    with pytest.raises(UserError, match=r"budget 100 is less than one training step of IMA \(13 forwards\) in each of"):
        Budget(100, 10).check("IMA", 13)
    Budget(130, 10).check("IMA", 13)
