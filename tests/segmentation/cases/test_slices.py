"""Slices and tiles against nnU-Net's own predictor, on a real preprocessed data set."""

from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ima.errors import UserError
from nnunet_ima.segmentation.cases.slices import Slice, batches, choose_cases, held_out_cases, qualifying
from nnunet_ima.segmentation.cases.tiles import TiledNetwork
from tests.conftest import Workspace

HELD_OUT = [f"case_{number}" for number in range(10)]


def test_held_out_cases_are_those_of_nnunets_split(in_process: Workspace) -> None:
    folds = [held_out_cases(in_process.preprocessed, "nnUNetPlans_2d", str(fold)) for fold in range(5)]
    assert sorted(case for cases in folds for case in cases) == held_out_cases(
        in_process.preprocessed, "nnUNetPlans_2d", "all"
    )


def test_missing_preprocessed_data_is_named(in_process: Workspace) -> None:
    with pytest.raises(UserError, match="nnUNetv2_plan_and_preprocess"):
        held_out_cases(in_process.preprocessed, "nnUNetPlans_elsewhere", "0")


def test_the_papers_parts_and_names() -> None:
    assert choose_cases(HELD_OUT, "heldout") == HELD_OUT
    assert choose_cases(HELD_OUT, "validation") == HELD_OUT[:3]
    assert choose_cases(HELD_OUT, "test") == HELD_OUT[3:]
    assert choose_cases(HELD_OUT, "case_4, case_2") == ["case_2", "case_4"]
    with pytest.raises(UserError, match="case_77"):
        choose_cases(HELD_OUT, "case_2,case_77")


def test_d4_is_split_as_in_the_paper() -> None:
    assert len(choose_cases([str(number) for number in range(52)], "test")) == 35


def test_slices_that_count() -> None:
    reference = np.zeros((4, 3, 3), dtype=np.int16)
    reference[1, 0, 0] = 1
    reference[2, 0, :2] = 1, 2
    reference[3, 0, 0] = 3
    assert qualifying(reference, 3, "complete") == [2]
    assert qualifying(reference, 3, "foreground") == [1, 2]
    assert qualifying(reference, None, "foreground") == [1, 2, 3]
    assert qualifying(reference, None, "all") == [0, 1, 2, 3]
    assert qualifying(np.zeros((2, 3, 3), dtype=np.int16), None, "complete") == []


def test_batches_hold_slices_of_one_shape_and_lose_none() -> None:
    slices = [
        Slice("case", number, torch.zeros(1, 4 + number % 2, 4), torch.zeros(1, 4 + number % 2, 4))
        for number in range(9)
    ]
    made = batches(slices, 2)
    assert all(len({item.image.shape for item in batch}) == 1 and len(batch) <= 2 for batch in made)
    assert sorted(item.number for batch in made for item in batch) == list(range(9))


@pytest.mark.parametrize("shape", [(64, 64), (80, 64), (150, 97), (40, 53), (31, 100), (90, 17)])
def test_tiles_give_the_logits_of_nnunets_predictor(in_process: Workspace, shape: tuple[int, int]) -> None:
    """nnU-Net accumulates in half precision, coarse where the Gaussian weights are small; ours in float32."""
    predictor, network = _predictor(in_process)
    torch.manual_seed(0)
    volume = torch.randn(1, 2, *shape)
    expected = predictor.predict_sliding_window_return_logits(volume).float()
    with torch.no_grad():
        found = TiledNetwork(network, (64, 64))(volume.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.03)


def test_gradients_reach_every_pixel_of_a_tiled_slice(in_process: Workspace) -> None:
    _, network = _predictor(in_process)
    image = torch.randn(1, 1, 100, 70, requires_grad=True)
    TiledNetwork(network, (64, 64))(image).square().sum().backward()
    assert image.grad is not None and (image.grad != 0).all()


@pytest.mark.parametrize("shape", [(10, 32, 32), (11, 60, 45), (4, 40, 20), (23, 33, 32)])
def test_tiles_of_a_volume_give_the_logits_of_nnunets_predictor(
    in_3d: Workspace, in_process: Workspace, shape: tuple[int, int, int]
) -> None:
    predictor, network = _predictor(in_process, "3d_fullres")
    torch.manual_seed(0)
    volume = torch.randn(1, *shape)
    expected = predictor.predict_sliding_window_return_logits(volume).float()
    with torch.no_grad():
        found = TiledNetwork(network, (10, 32, 32))(volume[None])[0]
    # In the corners the weights of three axes multiply to less than half precision holds.
    assert torch.isclose(found, expected, rtol=0.01, atol=0.03).double().mean() > 0.98


class Dense(torch.nn.Module):
    """The tiles of a volume with all their graphs at once: what the tile by tile gradient must equal."""

    def __init__(self, tiled: TiledNetwork) -> None:
        super().__init__()
        self.tiled = tiled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.tiled._gaussian(x)
        total, weight = torch.zeros(1), torch.zeros(x.shape[2:])
        for corner in self.tiled.corners(x.shape[2:]):
            window = [slice(start, start + side) for start, side in zip(corner, weights.shape, strict=True)]
            across = (slice(None), slice(None), *window)
            around = [
                part
                for start, side, whole in zip(corner[::-1], weights.shape[::-1], x.shape[:1:-1], strict=True)
                for part in (start, whole - start - side)
            ]
            part = self.tiled.network(x[across])
            total = total + torch.nn.functional.pad(part * weights, around)
            weight[tuple(window)] += weights
        return total / weight


def test_gradients_of_a_volume_are_those_of_all_tiles_together() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 3, 3, padding=1), torch.nn.InstanceNorm3d(3), torch.nn.Tanh(), torch.nn.Conv3d(3, 2, 1)
    )
    tiled, x = TiledNetwork(network, (6, 8, 8)), torch.randn(2, 1, 9, 12, 17, dtype=torch.float32)
    weights = torch.randn(2, 2, 9, 12, 17)
    gradients = []
    for module in (tiled, Dense(tiled)):
        image = x.clone().requires_grad_()
        (module(image) * weights).sum().backward()
        gradients.append(image.grad)
    assert len(tiled.corners(x.shape[2:])) > 10
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_of_a_volume_one_tile_is_in_memory_at_a_time() -> None:
    """What is kept for the gradient is the volume itself, however many tiles it has."""
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv3d(8, 2, 1))
    tiled, kept = TiledNetwork(network, (6, 8, 8)), []
    for shape in ((6, 8, 16), (12, 16, 32)):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            tiled(torch.randn(1, 1, *shape, requires_grad=True))
        kept.append(sum(sizes) / np.prod(shape))
    # The volume, its weights, and the Gaussian of a tile; eight channels of activations would be many times that.
    assert max(kept) < 4


def _predictor(workspace: Workspace, name: str = "2d") -> tuple[nnUNetPredictor, Any]:
    """nnU-Net's predictor with an untrained network of the data set's plan."""
    import json

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(workspace.plans())
    configuration = plans.get_configuration(name)
    dataset_json = json.loads((workspace.preprocessed / "dataset.json").read_text())
    torch.manual_seed(0)
    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    network = nnUNetTrainer.build_network_architecture(plans, configuration, 1, heads, enable_deep_supervision=False)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.manual_initialization(network, plans, configuration, None, dataset_json, "nnUNetTrainer", None)
    return predictor, network.eval()
