"""The noise sweep where memory is short."""

from collections.abc import Callable, Sequence

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.robustness import within_memory
from nnunet_ima.evaluation.slices import Slice

SLICES = [Slice(f"case{number}", number, torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)) for number in range(7)]


def _needs_memory(limit: int) -> tuple[list[int], Callable[[Sequence[Slice]], list[int]]]:
    """An attack that really asks torch for memory nobody has when its batch is larger than `limit`."""
    sizes: list[int] = []

    def attack(batch: Sequence[Slice]) -> list[int]:
        sizes.append(len(batch))
        torch.empty((1 << 60) if len(batch) > limit else 1)
        return [item.number for item in batch]

    return sizes, attack


def test_a_batch_too_large_is_taken_in_parts_and_in_order() -> None:
    sizes, attack = _needs_memory(2)
    found = within_memory(attack, SLICES)
    assert [number for part in found for number in part] == list(range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_slice_too_large_alone_is_named() -> None:
    _, attack = _needs_memory(0)
    with pytest.raises(UserError, match="Slice 0 of case case0, 1 x 8 x 8, does not fit into memory"):
        within_memory(attack, SLICES)


def test_other_errors_pass() -> None:
    def attack(batch: Sequence[Slice]) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        within_memory(attack, SLICES)
