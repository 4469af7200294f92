"""The mean over folds and mirrored images: nnU-Net's own, with the gradients of one member at a time."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from nnunet_ima.attacks.frozen import frozen
from nnunet_ima.segmentation.cases.averaged import AveragedNetwork
from tests.evaluation.test_sweep import Network

AXES = [(), (0,), (1,), (0, 1)]


def images() -> Tensor:
    return torch.randn(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axes", AXES)
def test_it_is_what_nnunet_predicts_with(axes: tuple[int, ...]) -> None:
    members, x = [Network(0), Network(1), Network(2)], images()
    each = []
    for member in members:
        predictor: Any = SimpleNamespace(network=member, use_mirroring=True, allowed_mirroring_axes=axes or None)
        # nnU-Net computes in inference mode and adds in place.
        each.append(nnUNetPredictor._internal_maybe_mirror_and_predict(predictor, x).clone())
    mean = AveragedNetwork(members, axes).eval()
    assert torch.allclose(mean(x), torch.stack(each).mean(0), atol=1e-6)


@pytest.mark.parametrize("axes", AXES)
def test_its_gradient_is_that_of_the_whole_graph(axes: tuple[int, ...]) -> None:
    members = [Network(0), Network(1)]
    mean, x = AveragedNetwork(members, axes).eval(), images().requires_grad_()
    weights = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    flips = mean.flips
    whole = sum(member(x.flip(flip)).flip(flip) for member in members for flip in flips) / (2 * len(flips))
    (wanted,) = torch.autograd.grad((whole * weights).sum(), x)
    for member in members:
        member.calls = 0
    with frozen(mean):
        (found,) = torch.autograd.grad((mean(x) * weights).sum(), x)
    assert torch.allclose(found, wanted, atol=1e-6)
    # Once for the logits and once more for the gradient, not kept in between.
    assert [member.calls for member in members] == [2 * len(flips)] * 2


@pytest.mark.parametrize("axes", AXES)
def test_it_is_the_mean_of_its_members_alone(axes: tuple[int, ...]) -> None:
    mean, x = AveragedNetwork([Network(0), Network(1)], axes).eval(), images()
    alone = [member(x) for member in mean.alone()]
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    assert torch.allclose(mean(x), torch.stack(alone).mean(0), atol=1e-6)


def test_without_gradients_nothing_is_computed_twice() -> None:
    member = Network(0)
    AveragedNetwork([member], (0, 1)).eval()(images())
    assert member.calls == 4


def test_activations_of_one_member_are_kept_at_a_time() -> None:
    """What autograd saves for the backward pass does not grow with the members, but for their input."""

    def kept(count: int) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        mean, x = AveragedNetwork([Network(seed) for seed in range(count)], (0, 1)).eval(), images().requires_grad_()
        with frozen(mean), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mean(x)
        return sum(sizes)

    assert kept(5) <= 5 * 4 * 2 * images().numel()
