"""The attacks on a classifier, where a whole evaluation would not show what they do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.classification.robustness import attacks
from tests.models import recorded_sizes


class Close(nn.Module):
    """Sure of nothing: an image with a mean above 0.5 is of class 1, by a lead that bfloat16 cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)
        self.linear.weight.data = torch.stack([torch.zeros(64), torch.full((64,), 1 / 64)])
        self.linear.bias.data = torch.tensor([100.0, 99.5])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def test_an_image_broken_in_bfloat16_only_gets_its_second_attack() -> None:
    """PGD's second run is on the margin loss, for images that the first one leaves right, as they are counted: in
    float32. Rounded to bfloat16 both logits are the same, and the first class is the answer."""
    model: Any = Close().eval()
    x, y = torch.full((1, 1, 8, 8), 0.6), torch.tensor([1])
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).argmax(1) != y
        generator = [torch.Generator().manual_seed(0)]
        first, second = attacks(3, "l2")["pgd"](model, x, y, 0.1, generator)
    assert model(first).argmax(1) == y
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["pgd", "strong"])
def test_further_attacks_take_on_the_images_that_are_still_right(name: str) -> None:
    model: Any = Close().eval()
    x = torch.stack([torch.full((1, 8, 8), value) for value in (0.6, 0.4)])
    y = torch.tensor([1, 1])
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    sizes = recorded_sizes(model)
    candidates = attacks(3, "l2")[name](model, x, y, 0.1, generators)
    # PGD asks for 3 steps and their start, Square for 15 candidates and their start.
    assert sizes.count(1) >= {"pgd": 4, "strong": 20}[name]
    assert len(candidates) == {"pgd": 2, "strong": 3}[name]
    first, *others = candidates
    assert all(torch.equal(other[1], first[1]) for other in others), "the second image is wrong from the beginning"
    alone = [torch.Generator().manual_seed(0)]
    for together, one in zip(candidates, attacks(3, "l2")[name](model, x[:1], y[:1], 0.1, alone), strict=True):
        assert torch.equal(together[:1], one)
