from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks import bpgd, frequency, padam, pgd
from nnunet_ima.attacks.buckets import bucketed, eighths, halves
from nnunet_ima.attacks.frozen import frozen
from tests.models import Counting, Curved

Attack = Callable[[nn.Module, Tensor, Tensor], object]
ATTACKS: dict[str, Attack] = {
    "pgd": lambda model, x, y: pgd(model, x, y, 0.5, steps=3),
    "padam": lambda model, x, y: padam(model, x, y, 0.5, steps=3),
    "frequency": lambda model, x, y: frequency(nn.Sequential(nn.Flatten(), model), x[:, None], y, 0.5, steps=3),
    "bpgd": lambda model, x, y: bpgd(model, x, y, 0.5, steps=3),
    "bpgd with a random start": lambda model, x, y: bpgd(model, x, y, 0.5, steps=3, random_start=True),
    "bpgd with shared logits": lambda model, x, y: bpgd(
        model, x.requires_grad_(), y, 0.5, steps=3, clean_logits=x[:, :3] * 2
    ),
}


class Fragile(nn.Module):
    """Passes its input on until it has been called `lasts` times."""

    def __init__(self) -> None:
        super().__init__()
        self.lasts = 10**6

    def forward(self, x: Tensor) -> Tensor:
        self.lasts -= 1
        if self.lasts < 0:
            raise RuntimeError("out of memory")
        return x


def network() -> nn.Sequential:
    """Everything an attack could leave traces in, and in an uneven state: one frozen parameter, one module in eval."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
        nn.Tanh(),
        nn.Linear(8, 3),
        Fragile(),
    )
    model(torch.randn(16, 6)).square().sum().backward()
    model[0].bias.requires_grad_(False)
    model[3].eval()
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grad": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "grad tensors": {name: id(p.grad) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
    }


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in ("state", "grad"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    for name in ("grad tensors", "requires_grad", "training"):
        assert after[name] == before[name]


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_leaves_no_trace_in_the_model(attack: Attack) -> None:
    model = network()
    before = snapshot(model)
    assert set(before["training"].values()) == {True, False}
    attack(model, *batch())
    assert_unchanged(before, snapshot(model))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
@pytest.mark.parametrize("lasts", [0, 1, 2])
def test_an_attack_that_breaks_off_leaves_no_trace_either(attack: Attack, lasts: int) -> None:
    model = network()
    fragile = model[-1]
    assert isinstance(fragile, Fragile)
    fragile.lasts = lasts
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        attack(model, *batch())
    assert_unchanged(before, snapshot(model))
    assert torch.is_grad_enabled()


def test_the_attack_sees_the_model_in_eval_mode_with_frozen_parameters() -> None:
    model = network()
    seen: list[tuple[bool, bool]] = []

    def look(*_: object) -> None:
        seen.append((any(m.training for m in model.modules()), any(p.requires_grad for p in model.parameters())))

    model.register_forward_hook(look)
    pgd(model, *batch(), 0.5, steps=2)
    bpgd(model, *batch(), 0.5, steps=2)
    assert set(seen) == {(False, False)}


def test_dropout_and_batch_statistics_do_not_make_the_attack_depend_on_chance_or_batch_mates() -> None:
    model, (x, y) = network(), batch()
    together = pgd(model, x, y, 0.5, random_start=False)
    assert torch.equal(together, pgd(model, x, y, 0.5, random_start=False))
    torch.testing.assert_close(pgd(model, x[:1], y[:1], 0.5, random_start=False), together[:1], rtol=1e-4, atol=1e-5)


def test_frozen_passes_plain_callables_through() -> None:
    model = Counting(Curved(4))
    with frozen(model) as inside:
        assert inside is model


@pytest.mark.parametrize(
    ("sizes", "largest", "expected"),
    [
        (halves, 1, {1}),
        (halves, 2, {2}),
        (halves, 3, {2, 3}),
        (halves, 8, {2, 4, 8}),
        (halves, 12, {2, 3, 6, 12}),
        (halves, 20, {3, 5, 10, 20}),
        (eighths, 1, {1}),
        (eighths, 3, {1, 2, 3}),
        (eighths, 12, {2, 3, 5, 6, 8, 9, 11, 12}),
        (eighths, 20, {3, 5, 8, 10, 13, 15, 18, 20}),
    ],
)
def test_bucketed_gives_the_same_outputs_from_few_batch_sizes(
    sizes: Callable[[int], list[int]], largest: int, expected: set[int]
) -> None:
    counting = Counting(Curved(6))
    run = bucketed(counting, sizes(largest))
    x = torch.randn(largest, 2, 3, generator=torch.Generator().manual_seed(0))
    for count in range(1, largest + 1):
        torch.testing.assert_close(run(x[:count]), counting.model(x[:count]))
    assert set(counting.batches) == expected


def test_bucketed_does_not_cut_a_batch_larger_than_the_largest() -> None:
    counting = Counting(Curved(6))
    assert len(bucketed(counting, [4])(torch.zeros(5, 6))) == 5
    assert counting.batches == [5]


def test_gradients_flow_through_bucketed_to_the_real_samples_only() -> None:
    counting = Counting(lambda x: x * 2)
    x = torch.ones(3, 2, requires_grad=True)
    bucketed(counting, halves(8))(x).sum().backward()  # type: ignore[no-untyped-call]
    assert counting.batches == [4]
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 2.0]] * 3
