import math

import torch

from nnunet_ima.attacks import CrossEntropy, Margin


def test_cross_entropy_is_per_sample_and_correct_means_argmax() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    y = torch.tensor([0, 0])
    loss = CrossEntropy().loss(logits, y)
    torch.testing.assert_close(loss, torch.tensor([math.log(3), math.log(2 + math.exp(5))]))
    assert CrossEntropy().correct(logits, y).tolist() == [True, False]
    assert torch.equal(CrossEntropy().badness(logits, y), loss)


def test_margin_loss_is_the_best_wrong_logit_minus_the_true_one() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [-1.0, -4.0, -2.0]])
    y = torch.tensor([1, 2, 0])
    assert Margin().loss(logits, y).tolist() == [-2.0, 2.0, -1.0]
    assert Margin().correct(logits, y).tolist() == [True, False, True]


def test_losses_of_half_precision_logits_are_float32() -> None:
    logits = torch.tensor([[60000.0, -60000.0]], dtype=torch.float16)
    y = torch.tensor([1])
    assert CrossEntropy().loss(logits, y).item() == 120000.0
    assert Margin().loss(logits, y).dtype == torch.float32
    assert torch.isfinite(Margin().loss(logits, y)).all()


def test_badness_carries_no_gradient() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not CrossEntropy().badness(logits, torch.tensor([0, 1])).requires_grad
    assert CrossEntropy().loss(logits, torch.tensor([0, 1])).requires_grad
