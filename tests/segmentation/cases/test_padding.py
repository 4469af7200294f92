"""Slices smaller than the network's patch: noise lies on their own pixels, the network alone sees padding."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from nnunet_ima.evaluation.corruptions import NEED_TORCHIO, corruption, has_torchio
from nnunet_ima.evaluation.noise_names import ATTACK_NAMES, CORRUPTION_NAMES
from nnunet_ima.evaluation.noises import Settings, Target, attack, random_noise
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.segmentation.cases.intensities import CTScale
from nnunet_ima.segmentation.cases.padding import crop, pad
from nnunet_ima.segmentation.cases.slices import Slice, Slices
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from tests.evaluation.test_sweep import STEPS, Labels, Network

PATCH = (16, 16)
SHAPES = [(9, 11), (9, 40), (37, 12), (16, 16), (21, 33)]
"""Smaller than the patch in both axes, in one and larger in the other, as large, and larger in both."""


class Cases:
    """Two cases per shape, of three slices each; their reference is what the network finds, upside down in places."""

    def __init__(self, shapes: list[tuple[int, int]], seed: int = 0) -> None:
        networks = [TiledNetwork(Network(seed).eval(), PATCH) for seed in (0, 1)]
        ct = {0: CTScale(40.0, 100.0, -1000.0, 1000.0, 1.0)}
        self.target = Target(networks[0], Labels(), networks[1], ct)
        self.content: dict[str, tuple[Any, Any]] = {}
        generator = torch.Generator().manual_seed(seed)
        for number in range(2 * len(shapes)):
            data = torch.randn(1, 3, *shapes[number // 2], generator=generator)
            with torch.no_grad():
                found = self.target.network(data.transpose(0, 1)).argmax(1)
            self.content[f"case{number}"] = data.numpy(), found[None].numpy().astype(np.int16)
        self.names = list(self.content)
        self.predictor = SimpleNamespace(
            label_manager=Labels(), configuration_manager=SimpleNamespace(patch_size=PATCH)
        )

    def load_case(self, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return *self.content[case], None, {}

    def slices(self, padded: bool = False) -> list[Slice]:
        found = Slices(self.predictor, self, self.names, "all", padded)
        return found.read(found.places)


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_is_nnunets_and_comes_off_again(shape: tuple[int, int]) -> None:
    image = torch.randn(2, *shape)
    expected, inside = pad_nd_image(image, PATCH, "constant", {"value": 0}, True)
    assert torch.equal(pad(image, PATCH), expected)
    assert torch.equal(crop(expected, shape), expected[inside]) and torch.equal(crop(expected, shape), image)


@pytest.mark.parametrize("name", [*ATTACK_NAMES, "random", *CORRUPTION_NAMES])
def test_every_noise_lies_on_the_image_whatever_its_size(name: str) -> None:
    if name in NEED_TORCHIO and not has_torchio():
        pytest.skip("needs TorchIO, an optional extra")
    cases = Cases(SHAPES)
    slices = cases.slices()
    assert [item.image.shape[1:] for item in slices[::6]] == [torch.Size(shape) for shape in SHAPES]
    noise = (
        corruption(name)
        if name in CORRUPTION_NAMES
        else random_noise(STEPS)
        if name == "random"
        else attack(name, STEPS)
    )
    kept: dict[tuple[str, int], Tensor] = {}
    found = sweep(cases.target, slices, [(noise, [0.0, 3.0])], 4, keep=Remembered(kept), progress=False).found[name]
    for column, item in enumerate(sorted(slices, key=lambda item: (item.image.shape, item.case, item.number))):
        delta = kept[item.case, item.number]
        assert delta.shape == item.image.shape and torch.isfinite(delta).all()
        assert found.norms[1, column] == pytest.approx(float(delta.norm()), rel=1e-5)
        assert name in CORRUPTION_NAMES or found.norms[1, column] <= 3.0001
    # A ghost may miss the few pixels of a slice.
    assert not found.norms[0].any() and (found.norms[1] > 0).mean() > (0.5 if name in CORRUPTION_NAMES else 0.99)
    # Nothing counts but the image's own pixels.
    assert (found.counts[..., 0] + found.counts[..., 2]).sum() == 2 * sum(int((s.reference > 0).sum()) for s in slices)


class Remembered:
    """Keeps the perturbations in memory."""

    def __init__(self, kept: dict[tuple[str, int], Tensor]) -> None:
        self.kept = kept

    def wants(self, noise: Any, level: float, batch: int) -> bool:
        return level > 0

    def store(self, noise: Any, level: float, batch: int, slices: Any, delta: Tensor) -> None:
        self.kept |= {(item.case, item.number): own for item, own in zip(slices, delta, strict=True)}


def test_noise_on_padding_is_the_attack_on_the_whole_patch() -> None:
    """The authors' protocol: slices padded first, as nnU-Net's predictor pads them, and the network itself attacked."""
    cases = Cases(SHAPES[:3])
    settings = Settings(steps=5)
    padded = cases.slices(padded=True)
    for item in padded:
        data, labels = cases.content[item.case]
        assert np.array_equal(item.image, pad_nd_image(data[:, item.number], PATCH))
        outside = {"constant_values": -1}
        assert np.array_equal(item.reference, pad_nd_image(labels[:, item.number], PATCH, "constant", outside))
    small = [item for item in padded if item.image.shape[1:] == PATCH]
    assert isinstance(cases.target.network, TiledNetwork)
    plan = [(attack("pgd", settings), [0.0, 3.0]), (random_noise(settings), [3.0])]
    whole = sweep(Target(cases.target.network.network, Labels()), small, plan, 4, progress=False)
    found = sweep(cases.target, small, plan, 4, progress=False)
    own = sweep(cases.target, cases.slices()[:6], plan, 4, progress=False)
    assert len(small) == 6 and len(padded) == 18
    for name, one in whole.found.items():
        assert (found.found[name].counts == one.counts).all() and (found.found[name].norms == one.norms).all()
        assert (own.found[name].counts[0] == one.counts[0]).all() or name == "random"
    assert (own.found["pgd"].counts[1] != whole.found["pgd"].counts[1]).any()
