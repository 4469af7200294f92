"""What the smallest noises of slices say of a model: quantiles, survival, along the axis; by hand."""

from pathlib import Path

import pytest
import torch

from nnunet_ima.evaluation.noises import Settings, Target, smallest_noise
from nnunet_ima.evaluation.smallest import (
    Profile,
    along_axis,
    by_size,
    figures,
    pooled_smallest,
    survival,
    training_margins,
)
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from nnunet_ima.segmentation.objectives.one_structure import OneStructure
from tests.evaluation.test_sweep import Labels, Network

PROFILE: Profile = {
    "one": {"slices": [3, 4, 5], "noise": [0.0, 2.0, 4.0], "pixels": [5, 40, 60]},
    "two": {"slices": [0, 9], "noise": [6.0, None], "pixels": [100, 20]},
}


def test_quantiles_and_counts() -> None:
    found = figures(PROFILE, 8.0, [1.0, 3.0])
    assert found["median"] == 4.0 and found["quantiles"]["0.95"] is None and found["quantiles"]["0.05"] == 0
    assert (found["failing"], found["lasting"], found["largest"]) == (1, 1, 8.0)
    assert found["training_margins"]["0.5"] == 2.0 and figures(PROFILE, 8.0)["training_margins"] is None


def test_survival_falls_from_slices_that_are_right_to_those_that_last() -> None:
    levels, shares = survival(PROFILE, 8.0, 5)
    assert levels == [0, 2, 4, 6, 8] and shares == pytest.approx([80, 60, 40, 20, 20])


def test_along_the_axis() -> None:
    places, medians = along_axis(PROFILE, 8.0, 2)
    # First halves: slices 3 and 0; slice 4, in the middle, belongs to the second.
    assert places == [0.25, 0.75] and medians == [3.0, 4.0]


def test_by_size() -> None:
    quarters = figures(PROFILE, 8.0)["size_quartiles"]
    assert [(one["pixels"], one["slices"], one["median"]) for one in quarters] == [
        ([5, 20], 2, 0.0),
        ([40, 40], 1, 2.0),
        ([60, 60], 1, 4.0),
        ([100, 100], 1, 6.0),
    ]
    assert by_size([{"pixels": [10, 20], "median": None}], 8.0) == ([15.0], [8.0])
    assert figures({}, 8.0)["size_quartiles"] == []


def test_folds_are_pooled() -> None:
    parts = [figures({case: one}, 8.0) | {"forwards": 7} for case, one in PROFILE.items()]
    assert pooled_smallest(parts) == figures(PROFILE, 8.0) | {"forwards": 14}
    parts = [part | {"structures": {"core": figures(part["profile"], 8.0)}} for part in parts]
    assert pooled_smallest(parts)["structures"] == {"core": figures(PROFILE, 8.0)}


def test_margins_come_from_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"ima": {"store": {"margins": torch.tensor([1.0, 2.0, 3.0]), "visits": torch.tensor([1, 0, 2])}}}, file)
    assert training_margins(file) == [1.0, 3.0]
    torch.save({"network_weights": {}}, file)
    assert training_margins(file) == []


def test_a_slice_that_reduced_precision_takes_for_lost_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Dice is above the threshold in float32 only, so that its boundary is near."""
    network = Network().eval()
    x = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network(x).argmax(1, keepdim=True)

    class Coarse(Network):
        """Finds nothing in reduced precision."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            return torch.zeros_like(logits) if torch.is_autocast_enabled("cpu") else logits

    monkeypatch.setattr("nnunet_ima.evaluation.noises.native_bfloat16", lambda _: True)
    found = smallest_noise(Settings())(Target(Coarse().eval(), Labels()), x, y, 20.0, [str(row) for row in range(4)])
    with torch.no_grad():
        assert not SegmentationObjective(2).correct(network(found), y).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_slice_fails_at_its_smallest_noise_and_not_before(norm: str) -> None:
    network = Network().eval()
    x = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network(x).argmax(1, keepdim=True)
    noise, objective = smallest_noise(Settings(norm=norm)), SegmentationObjective(2)  # type: ignore[arg-type]
    largest = 20.0 if norm == "l2" else 3.0
    found = noise(Target(network, Labels()), x, y, largest, [str(row) for row in range(6)])
    delta = found - x
    size = delta.flatten(1).norm(dim=1) if norm == "l2" else delta.flatten(1).abs().amax(1)
    assert bool((size > 0).all()) and bool((size <= largest).all())
    with torch.no_grad():
        assert not objective.correct(network(found), y).any()
        assert objective.correct(network(x + 0.99 * delta), y).all()


@pytest.mark.parametrize("number", [0, 1])
def test_a_structure_fails_at_its_own_smallest_noise(number: int) -> None:
    network = Network().eval()
    x = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network(x).argmax(1, keepdim=True)
    objective = OneStructure(SegmentationObjective(2), number)
    noise = smallest_noise(Settings(), (number, "core"))
    assert noise.name == "smallest core"
    delta = noise(Target(network, Labels()), x, y, 20.0, [str(row) for row in range(6)]) - x
    with torch.no_grad():
        assert not objective.correct(network(x + delta), y).any()
        assert objective.correct(network(x + 0.99 * delta), y).all()
