"""Scores without references, of networks whose predictions and whose smallest noise are known by hand."""

import json

import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.evaluation.corruptions import corruption
from nnunet_ima.evaluation.noises import Target
from nnunet_ima.evaluation.panel import Panel
from nnunet_ima.evaluation.unreferenced import Search, case_dice, corrupted, examined, own_reference, scores_of, spread
from nnunet_ima.segmentation.cases.slices import Slice
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective
from tests.evaluation.test_sweep import Labels, Network, slices, target


class OneLabel(Labels):
    foreground_labels = (1,)  # type: ignore[assignment]


class Regions(Labels):
    has_regions = True
    foreground_regions = (1, 2)


class Bright(nn.Module):
    """Finds what is brighter than a level; nothing else matters. regions: as one channel per region."""

    def __init__(self, level: float, regions: int = 0) -> None:
        super().__init__()
        self.level, self.regions = level, regions

    def forward(self, x: Tensor) -> Tensor:
        logit = 0.2 * (x - self.level)
        return logit.expand(-1, self.regions, -1, -1) if self.regions else torch.cat([-logit, logit], 1)


def bright(*values: list[float]) -> list[Slice]:
    """Slices of one case that are dark (-20) but for pixels of these values."""
    found = []
    for number, own in enumerate(values):
        image = torch.full((1, 8, 8), -20.0)
        image[0, 0, : len(own)] = torch.tensor(own)
        found.append(Slice("case", number, image, torch.zeros(1, 8, 8, dtype=torch.int16)))
    return found


def panel(*levels: float, plain: float | None = None) -> Panel:
    networks = [Bright(level) for level in levels]
    return Panel(Target(networks[0], OneLabel()), networks[1:] and networks, None if plain is None else Bright(plain))


def test_agreement_is_that_of_all_voxels_of_the_case() -> None:
    """Levels 0, 2 and 4 leave 5, 3 and 1 of the pixels 1, 1, 3, 3, 5 in two slices."""
    items = bright([1.0, 3.0, 5.0], [1.0, 3.0])
    found = examined(panel(0.0, 2.0, 4.0, plain=2.0), items, 1, None)
    json.dumps(found)
    assert found["pairs"] == [[[3, 2, 0]], [[1, 4, 0]], [[1, 2, 0]]]
    scores = scores_of(found, None)
    assert scores["pairwise_dice"] == pytest.approx(100 * (6 / 8 + 2 / 6 + 2 / 4) / 3)
    assert scores["plain_dice"] == pytest.approx(100 * 6 / 8) and set(scores) == {"pairwise_dice", "plain_dice"}
    assert examined(panel(0.0, 2.0, 4.0, plain=2.0), items, 8, None) == found, "whatever the batch"


def test_a_network_agrees_with_itself() -> None:
    own = target()
    found = examined(Panel(own, [own.network, Network()], Network()), slices(4), 2, None)
    assert scores_of(found, None) == {"pairwise_dice": 100, "plain_dice": 100}
    other = examined(Panel(own, [own.network, Network(1)], Network(1)), slices(4), 2, None)
    assert scores_of(other, None)["plain_dice"] == scores_of(other, None)["pairwise_dice"] < 100


def test_the_reference_is_only_counted() -> None:
    """The network is its own reference in `slices`: without errors there."""
    counts = examined(Panel(target()), slices(4), 2, None)["reference"]
    assert case_dice(counts) == 1 and sum(tp for tp, _, _ in counts) > 0


@pytest.mark.parametrize(
    ("counts", "dice"),
    [
        ([[2, 1, 1], [0, 0, 0]], 2 / 3),
        ([[2, 0, 0], [0, 1, 0]], 0.5),
        ([[0, 0, 0], [0, 0, 0]], 1.0),
        ([[0, 0, 3], [0, 0, 0]], 0.0),
    ],
)
def test_a_class_in_neither_is_left_out_and_two_empty_ones_agree(counts: list[list[int]], dice: float) -> None:
    assert case_dice(counts) == pytest.approx(dice)


@pytest.mark.parametrize("regions", [0, 2])
def test_the_smallest_noise_by_hand(regions: int) -> None:
    """Of two equally bright pixels both must go (one leaves a Dice of 67 %): the L2 norm of their distances. The slice
    without any is not looked at; of the others the median counts."""
    items = bright([4.0, 4.0], [], [1.0], [7.0, 7.0])
    if regions:
        items = [Slice("case", item.number, item.image, torch.zeros(3, 8, 8, dtype=torch.bool)) for item in items]
    attacked = Panel(Target(Bright(0.0, regions), Regions() if regions else OneLabel()))
    search = Search(20.0, 8)
    found = examined(attacked, items, 3, search)
    assert found["found"] == 3 and found["noise"] == pytest.approx([4 * 2**0.5, 1.0, 7 * 2**0.5], rel=0.03)
    assert scores_of(found, search) == {"smallest_noise": pytest.approx(4 * 2**0.5, rel=0.03)}
    less = Search(7.0, 8)
    found = examined(attacked, items, 3, less)
    assert found["noise"][2] is None and scores_of({**found, "noise": [None, None]}, less)["smallest_noise"] == 7
    one = examined(attacked, items, 3, Search(20.0, 1))
    assert one["noise"] == pytest.approx([1.0], rel=0.03), "the middle one"


def test_where_nothing_is_found_the_case_comes_first() -> None:
    search = Search(20.0, 8)
    found = examined(Panel(Target(Bright(0.0), OneLabel())), bright([], []), 2, search)
    assert found["found"] == 0 and scores_of(found, search) == {"smallest_noise": 0.0}


@pytest.mark.parametrize("regions", [False, True])
def test_a_prediction_meets_itself(regions: bool) -> None:
    objective = SegmentationObjective(2, regions, ignore_label=None)
    logits = torch.randn(3, 2 if regions else 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert objective.slice_dice(logits, own_reference(objective, logits)).tolist() == [1, 1, 1]


def test_slices_are_spread() -> None:
    assert spread([3, 4, 5], 8) == [3, 4, 5] and spread([], 4) == [] and spread([1, 2, 3], 0) == []
    for length in range(1, 40):
        for count in range(1, length + 1):
            found = spread(list(range(length)), count)
            assert len(set(found)) == count and found == sorted(found)
    assert spread(list(range(10)), 1) == [5] and spread(list(range(9)), 3) == [1, 4, 7]


def test_a_corruption_is_the_same_each_time() -> None:
    noise, shown = corruption("gaussian", 3), Panel(target())
    first, again = (corrupted(shown, slices(4), noise, 3.0, 3) for _ in range(2))
    alone = corrupted(shown, slices(4)[2:3], noise, 3.0, 3)
    assert all(torch.equal(one.image, other.image) for one, other in zip(first, again, strict=True))
    assert torch.equal(alone[0].image, first[2].image)
    change = torch.cat([one.image - clean.image for one, clean in zip(first, slices(4), strict=True)])
    assert float(change.std()) == pytest.approx(0.2, rel=0.1)
    assert all(
        one.reference is clean.reference or torch.equal(one.reference, clean.reference)
        for one, clean in zip(first, slices(4), strict=True)
    )
