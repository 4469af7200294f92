"""Attacks in float16, CUDA's usual precision: what a confident network hides from them, and what overflows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks import apgd, ball, bpgd, frequency, padam, pgd
from nnunet_ima.attacks.ddn import ddn
from nnunet_ima.attacks.frozen import input_gradient, steady
from nnunet_ima.attacks.walk import walk
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective

PIXELS = 64


def confident(lead: float) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of two layers that run in float16 under autocast, and 16 images, all at the distance 1 from
    its boundary, of which it is sure with this lead in its logits."""
    torch.manual_seed(0)
    turn = nn.Linear(PIXELS, PIXELS, bias=False)
    nn.init.orthogonal_(turn.weight)
    answer = nn.Linear(PIXELS, 2, bias=False)
    unit = torch.nn.functional.normalize(torch.randn(PIXELS), dim=0)
    answer.weight.data = torch.stack([-unit, unit]) * lead / 2
    boundary = turn.weight.T.detach() @ unit
    flat = torch.randn(16, PIXELS)
    y = torch.arange(16) % 2
    flat = flat + (2.0 * y - 1 - flat @ boundary)[:, None] * boundary
    return nn.Sequential(nn.Flatten(), turn, answer), flat.view(16, 1, 8, 8), y


@pytest.mark.parametrize("lead", [6.0, 12.0, 18.0, 25.0])
def test_the_boundary_is_as_far_in_float16_as_it_is(lead: float) -> None:
    model, x, y = confident(lead)
    with torch.autocast("cpu", torch.float16):
        found = bpgd(model, x, y, 3.0)
    assert found.crossed.all()
    torch.testing.assert_close(found.distance, torch.ones(16), rtol=0.02, atol=0)


Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
ATTACKS: dict[str, Attack] = {
    "pgd": lambda model, x, y: pgd(model, x, y, 1.2),
    "apgd": lambda model, x, y: apgd(model, x, y, 1.2, steps=20),
    "padam": lambda model, x, y: padam(model, x, y, 1.2),
    "frequency": lambda model, x, y: frequency(model, x, y, 1.2, band=(0.0, 1.0), steps=20),
    "walk": lambda model, x, y: walk(model, x, y, 1.2, steps=20).x,
    "ddn": lambda model, x, y: ddn(model, x, y, steps=60),
    "bpgd with shared logits": lambda model, x, y: _shared(model, x, y),
}


def _shared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.requires_grad_()
    found = bpgd(model, x, y, 1.2, clean_logits=model(x), bisections=0)
    return 2 * found.x - found.last_correct


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_every_attack_breaks_a_confident_classifier_in_float16(attack: Attack) -> None:
    model, x, y = confident(18.0)
    with torch.autocast("cpu", torch.float16):
        noisy = attack(model, x, y)
    assert (model(noisy).argmax(1) != y).all()


def test_a_gradient_keeps_its_direction_and_gets_a_size_that_float16_holds() -> None:
    logits = torch.tensor([[1e-30, -3e-30], [4e20, 1e20], [0.0, 0.0], [float("inf"), 1.0]], requires_grad=True)
    weights = logits.detach().clone()
    (gradient,) = torch.autograd.grad((steady(logits) * weights).sum(), logits)
    assert torch.equal(ball.direction(gradient, "l2"), ball.direction(weights, "l2"))
    largest = gradient[:2].abs().amax(1)
    assert ((largest >= 1) & (largest < 2)).all()
    assert torch.equal(gradient[2:], weights[2:])


def test_the_gradient_of_a_large_slice_does_not_overflow_in_float16() -> None:
    """Five pixels of 512 x 512, all right: the slope of their Dice, times the pixels, is beyond float16."""
    network = nn.Conv2d(1, 2, 1, bias=False)
    network.weight.data = torch.tensor([-60.0, 60.0]).view(2, 1, 1, 1)
    y = torch.zeros(1, 1, 512, 512)
    y[..., :5] = torch.tensor([1.0])
    y[..., 1:, :] = 0
    x = torch.where(y > 0, 0.01, -0.1).requires_grad_()
    objective = SegmentationObjective(1)
    with torch.autocast("cpu", torch.float16):
        gradient = input_gradient(objective.loss(steady(network(x)), y), x, y)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
