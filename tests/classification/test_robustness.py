"""The attacks on a classifier, where a whole evaluation would not show what they do."""

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_ima.classification.robustness import attacks


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
