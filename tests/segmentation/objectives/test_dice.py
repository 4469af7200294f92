import math
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss, get_tp_fp_fn_tn
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from nnunet_ima.attacks import bpgd, pgd
from nnunet_ima.segmentation.objectives.dice import DiceRule, SegmentationObjective, dice_per_class

SIZE = (9, 7)


def logits_of(channels: int, count: int = 3) -> Tensor:
    return 2 * torch.randn(count, channels, *SIZE, generator=torch.Generator().manual_seed(0))


def label_maps(labels: int, count: int = 3) -> Tensor:
    """Label maps as nnU-Net's loader gives them; the last slice is background only."""
    y = torch.randint(0, labels, (count, 1, *SIZE), generator=torch.Generator().manual_seed(1)).to(torch.int16)
    y[-1] = 0
    return y


def region_masks(channels: int, count: int = 3) -> Tensor:
    return torch.rand(count, channels, *SIZE, generator=torch.Generator().manual_seed(1)) < 0.3


def one_row(counts: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Logits and label map of one slice, a single row of pixels, with these TP, FP and FN per class."""
    predicted, reference = [0], [0]
    for label, (tp, fp, fn) in enumerate(counts, 1):
        predicted += [label] * (tp + fp) + [0] * fn
        reference += [label] * tp + [0] * fp + [label] * fn
    one_hot = torch.nn.functional.one_hot(torch.tensor(predicted), len(counts) + 1)
    return one_hot.T[None, :, None].float(), torch.tensor(reference)[None, None, None]


def nnunet_loss(ignore_label: int | None, regions: bool) -> Any:
    """nnU-Net's own loss, with the arguments of its trainer but for batch_dice."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": regions, "ddp": False}
    if regions:
        return DC_and_BCE_loss(
            {}, dice, use_ignore_label=ignore_label is not None, dice_class=MemoryEfficientSoftDiceLoss
        )
    return DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_loss_is_nnunets_own_on_a_batch_of_one(ignore_label: int | None) -> None:
    logits, y = logits_of(3), label_maps(3 if ignore_label is None else 4)
    loss = SegmentationObjective(2, ignore_label=ignore_label).loss(logits, y)
    stock = nnunet_loss(ignore_label, regions=False)
    assert loss.shape == (3,)
    for i in range(3):
        torch.testing.assert_close(loss[i], stock(logits[i : i + 1], y[i : i + 1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ignored", [False, True])
def test_loss_with_regions_is_nnunets_own_on_a_batch_of_one(ignored: bool) -> None:
    logits, y = logits_of(2), region_masks(3 if ignored else 2)
    if ignored:
        y[:, :2] &= ~y[:, 2:]
    ignore_label = 3 if ignored else None
    loss = SegmentationObjective(2, regions=True, ignore_label=ignore_label).loss(logits, y)
    stock = nnunet_loss(ignore_label, regions=True)
    for i in range(3):
        torch.testing.assert_close(loss[i], stock(logits[i : i + 1], y[i : i + 1]), rtol=1e-5, atol=1e-6)


def test_loss_of_a_slice_that_is_ignored_entirely_is_finite_and_flat() -> None:
    logits = logits_of(3).requires_grad_()
    y = torch.full((3, 1, *SIZE), 3)
    loss = SegmentationObjective(2, ignore_label=3).loss(logits, y)
    torch.testing.assert_close(loss[0], nnunet_loss(3, regions=False)(logits[:1], y[:1]))
    gradient = torch.autograd.grad(loss.sum(), logits)[0]
    assert not gradient.any()


def test_counts_are_nnunets_own() -> None:
    logits, y = logits_of(4), label_maps(4)
    one_hot = torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)
    tp, fp, fn, _ = get_tp_fp_fn_tn(one_hot, y, axes=(2, 3))
    counts = SegmentationObjective(3).counts(logits, y)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, torch.stack([tp, fp, fn], 2)[:, 1:].long())
    assert counts[-1, :, 0].eq(0).all()


def test_counts_with_an_ignore_label_are_nnunets_own_with_its_mask() -> None:
    logits, y = logits_of(3), label_maps(4)
    one_hot = torch.zeros_like(logits).scatter_(1, logits.argmax(1, keepdim=True), 1)
    mask = y != 3
    tp, fp, fn, _ = get_tp_fp_fn_tn(one_hot, torch.where(mask, y, 0), axes=(2, 3), mask=mask)
    expected = torch.stack([tp, fp, fn], 2)[:, 1:].long()
    assert torch.equal(SegmentationObjective(2, ignore_label=3).counts(logits, y), expected)


@pytest.mark.parametrize("ignored", [False, True])
def test_counts_with_regions_are_counted_pixel_by_pixel(ignored: bool) -> None:
    logits, y = logits_of(2), region_masks(3 if ignored else 2)
    expected = torch.zeros(3, 2, 3, dtype=torch.int64)
    for n in range(3):
        for region in range(2):
            for row in range(SIZE[0]):
                for column in range(SIZE[1]):
                    if ignored and y[n, 2, row, column]:
                        continue
                    predicted = bool(logits[n, region, row, column].sigmoid() > 0.5)
                    case = {(True, True): 0, (True, False): 1, (False, True): 2}
                    index = case.get((predicted, bool(y[n, region, row, column])))
                    if index is not None:
                        expected[n, region, index] += 1
    objective = SegmentationObjective(2, regions=True, ignore_label=3 if ignored else None)
    assert torch.equal(objective.counts(logits, y), expected)


def test_one_row_makes_the_counts_it_is_asked_for() -> None:
    logits, y = one_row([(3, 1, 2), (0, 4, 0), (5, 0, 1)])
    assert SegmentationObjective(3).counts(logits, y).tolist() == [[[3, 1, 2], [0, 4, 0], [5, 0, 1]]]


@pytest.mark.parametrize(
    ("rule", "dice"),
    [
        # Class 1: 6/9, class 2 is not in the reference, class 3: 10/11; merged: 2*8/(2*8+5+3).
        ("mean", (6 / 9 + 10 / 11) / 2),
        ("max", 10 / 11),
        ("merged", 16 / 24),
    ],
)
def test_slice_dice_by_rule_over_the_classes_in_the_reference(rule: DiceRule, dice: float) -> None:
    logits, y = one_row([(3, 1, 2), (0, 4, 0), (5, 0, 1)])
    assert SegmentationObjective(3, rule=rule).slice_dice(logits, y).item() == pytest.approx(dice)


def test_merged_takes_no_notice_of_a_mix_up_between_classes() -> None:
    logits, y = one_row([(3, 0, 0), (0, 0, 3)])
    logits[0, :, 0, -3:] = torch.tensor([0.0, 1.0, 0.0])[:, None]
    assert SegmentationObjective(2, rule="merged").slice_dice(logits, y).item() == 1.0
    # Class 1: 6/(6+3), class 2: 0.
    assert SegmentationObjective(2, rule="mean").slice_dice(logits, y).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("rule", ["mean", "max", "merged"])
@pytest.mark.parametrize("false_positives", [0, 3])
def test_a_slice_without_foreground_has_no_dice_and_is_never_correct(rule: DiceRule, false_positives: int) -> None:
    logits, y = one_row([(0, false_positives, 0), (0, 0, 0)])
    objective = SegmentationObjective(2, rule=rule, threshold=0.0)
    assert math.isnan(objective.slice_dice(logits, y).item())
    assert objective.correct(logits, y).tolist() == [False]


@pytest.mark.parametrize("rule", ["mean", "max", "merged"])
def test_a_missed_class_has_dice_zero_not_nan(rule: DiceRule) -> None:
    logits, y = one_row([(0, 0, 4)])
    assert SegmentationObjective(1, rule=rule).slice_dice(logits, y).item() == 0.0


def test_correct_means_strictly_above_the_threshold() -> None:
    at, above = one_row([(3, 2, 2)]), one_row([(4, 2, 2)])
    objective = SegmentationObjective(1)
    assert objective.threshold == 0.6
    assert torch.equal(objective.slice_dice(*at), torch.tensor([0.6]))
    assert objective.correct(*at).tolist() == [False]
    assert objective.correct(*above).tolist() == [True]
    assert SegmentationObjective(1, threshold=0.7).correct(*above).tolist() == [False]


def test_dice_per_class_is_nan_where_a_class_is_nowhere() -> None:
    dice = dice_per_class(torch.tensor([[4, 2, 2], [0, 0, 0], [0, 1, 0]]))
    assert dice[0].item() == pytest.approx(2 / 3)
    assert math.isnan(dice[1].item())
    assert dice[2].item() == 0.0


@pytest.mark.parametrize("outside", [3, -1])
@pytest.mark.parametrize("rule", ["mean", "max", "merged"])
def test_pixels_ignored_or_outside_of_the_image_count_nowhere(outside: int, rule: DiceRule) -> None:
    objective = SegmentationObjective(2, ignore_label=3, rule=rule)
    logits, y = logits_of(3), label_maps(3)
    y[:, :, :, 4:] = outside
    other = logits.clone()
    other[..., 4:] = 50 * torch.randn(other[..., 4:].shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(objective.counts(logits, y), objective.counts(other, y))
    assert torch.equal(objective.correct(logits, y), objective.correct(other, y))
    assert torch.equal(objective.badness(logits, y), objective.badness(other, y))
    torch.testing.assert_close(objective.slice_dice(logits, y), objective.slice_dice(other, y), equal_nan=True)
    torch.testing.assert_close(objective.loss(logits, y), objective.loss(other, y))
    # And what counts is the rest of the image.
    cut = SegmentationObjective(2, rule=rule)
    assert torch.equal(objective.counts(logits, y), cut.counts(logits[..., :4], y[..., :4]))
    torch.testing.assert_close(objective.loss(logits, y), cut.loss(logits[..., :4], y[..., :4]))


def test_pixels_ignored_with_regions_count_nowhere() -> None:
    objective, logits, y = SegmentationObjective(2, regions=True, ignore_label=3), logits_of(2), region_masks(3)
    y[:, 2] = False
    y[:, 2, :, 4:] = True
    cut = SegmentationObjective(2, regions=True)
    for of in ("counts", "slice_dice", "badness"):
        inside = getattr(cut, of)(logits[..., :4], y[:, :2, :, :4])
        torch.testing.assert_close(getattr(objective, of)(logits, y), inside, equal_nan=True)


def test_badness_is_minus_the_mean_dice_as_adi_counts_it() -> None:
    objective = SegmentationObjective(3)
    # Class 2 is predicted only, which ADI counts as 0; class 3 is nowhere.
    assert objective.badness(*one_row([(3, 1, 2), (0, 4, 0), (0, 0, 0)])).item() == pytest.approx(-(6 / 9 + 0) / 2)


@pytest.mark.parametrize(
    ("counts", "badness"),
    [
        ([(3, 0, 0), (2, 0, 0)], -1.0),
        ([(0, 1, 3), (0, 0, 2)], 0.0),
        ([(0, 0, 0), (0, 0, 0)], -1.0),
        ([(0, 2, 0), (0, 0, 0)], 0.0),
    ],
    ids=["perfect", "destroyed", "rightly empty", "wrongly not empty"],
)
def test_badness_goes_from_perfect_to_worst(counts: list[tuple[int, int, int]], badness: float) -> None:
    objective = SegmentationObjective(2)
    assert objective.badness(*one_row(counts)).item() == badness
    assert objective.worst == 0.0


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("rule", ["mean", "max", "merged"])
def test_no_value_of_a_slice_depends_on_its_batch_mates(regions: bool, rule: DiceRule) -> None:
    objective = SegmentationObjective(2, regions=regions, ignore_label=3, rule=rule)
    logits, y = logits_of(2 if regions else 3), region_masks(3) if regions else label_maps(4)
    for of in ("loss", "counts", "slice_dice", "correct", "badness"):
        together = getattr(objective, of)(logits, y)
        for i in range(3):
            alone = getattr(objective, of)(logits[i : i + 1], y[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], equal_nan=True)


@pytest.mark.parametrize("regions", [False, True])
def test_half_precision_logits_of_extreme_size_give_a_finite_loss_and_gradient(regions: bool) -> None:
    logits = torch.where(logits_of(2 if regions else 3) > 0, 65504.0, -65504.0).half().requires_grad_()
    y = region_masks(2) if regions else label_maps(3)
    loss = SegmentationObjective(2, regions=regions).loss(logits, y)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


def test_float_and_integer_label_maps_are_the_same() -> None:
    objective, logits, y = SegmentationObjective(2), logits_of(3), label_maps(3)
    assert torch.equal(objective.loss(logits, y), objective.loss(logits, y.float()))
    assert torch.equal(objective.counts(logits, y), objective.counts(logits, y.float()))


@pytest.mark.parametrize(
    ("labels", "order", "foreground", "regions", "ignore_label"),
    [
        ({"background": 0, "a": 1, "b": 2}, None, 2, False, None),
        ({"background": 0, "a": 1, "ignore": 2}, None, 1, False, 2),
        ({"background": 0, "whole": [1, 2], "core": 2}, [1, 2], 2, True, None),
        ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2], 2, True, 3),
    ],
)
def test_an_objective_is_made_for_nnunets_labels(
    labels: dict[str, Any], order: list[int] | None, foreground: int, regions: bool, ignore_label: int | None
) -> None:
    objective = SegmentationObjective.of(LabelManager(labels, order), 0.5, "max")
    assert objective.num_foreground == foreground
    assert objective.regions is regions
    assert objective.ignore_label == ignore_label
    assert (objective.threshold, objective.rule) == (0.5, "max")


def threshold_network(x: Tensor) -> Tensor:
    """Class 1 wherever the intensity is above 0.5."""
    return torch.cat([-(x - 0.5), x - 0.5], 1)


def test_an_attack_lowers_the_dice_of_a_segmentation() -> None:
    y = torch.zeros(2, 1, 6, 6, dtype=torch.int16)
    y[:, :, 2:4, 2:4] = 1
    x = y.float()
    objective = SegmentationObjective(1)
    assert objective.slice_dice(threshold_network(x), y).tolist() == [1.0, 1.0]
    # Linf of 0.5 and more flips every pixel; below it none.
    broken = pgd(threshold_network, x, y, torch.tensor([0.4, 0.6]), objective=objective, norm="linf")
    assert objective.badness(threshold_network(broken), y).tolist() == [-1.0, 0.0]


def test_bpgd_finds_the_noise_at_which_a_slice_stops_being_correct() -> None:
    y = torch.zeros(1, 1, 6, 6, dtype=torch.int16)
    y[:, :, 2:4, 2:4] = 1
    found = bpgd(threshold_network, y.float(), y, 1.0, objective=SegmentationObjective(1), norm="linf")
    assert found.crossed.all()
    assert found.distance.item() == pytest.approx(0.5, abs=2e-4)
