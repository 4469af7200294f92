"""Nested noise levels: curves that fall by construction, lost slices that cost nothing, forwards that are counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.attacks.ball import Norm
from nnunet_ima.evaluation.evaluate import Choice, plan
from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.nested import left, nested
from nnunet_ima.evaluation.noises import ATTACKS, Noise, Target, attack
from nnunet_ima.evaluation.sweep import Found, _work, shares, sweep
from nnunet_ima.evaluation.under_noise import outcomes
from nnunet_ima.evaluation.volumes import KeptNoise
from nnunet_ima.segmentation.cases.slices import Slice
from tests.evaluation.test_sweep import STEPS, Labels, Network, slices, target

LEVELS: dict[Norm, list[float]] = {"l2": [0.0, 0.5, 2.0], "linf": [0.0, 0.04, 0.2]}


def noise(name: str, norm: Norm = "l2") -> Noise:
    return nested(attack(name, replace(STEPS, norm=norm)), LEVELS[norm])


def found(one: Noise, levels: Sequence[float], batch_size: int = 2, attacked: Target | None = None) -> Found:
    return sweep(attacked or target(), slices(), [(one, levels)], batch_size, progress=False).found[one.name]


@pytest.mark.parametrize("norm", LEVELS)
@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_left_of_a_slice_never_grows(name: str, norm: Norm) -> None:
    if (name, norm) == ("frequency", "linf"):
        pytest.skip("noise within a band knows the L2 norm only")
    one = noise(name, norm)
    upwards, alone = found(one, LEVELS[norm]), found(attack(name, replace(STEPS, norm=norm)), LEVELS[norm])
    rest = np.stack([left(one, torch.from_numpy(counts)) for counts in upwards.counts])
    assert (np.diff(rest, axis=0) <= 0).all() and rest[-1].mean() < rest[0].mean() == 1
    assert (upwards.norms <= np.asarray(LEVELS[norm])[:, None] * (1 + 1e-5) + 1e-9).all()
    # Nothing lies below the first level with noise.
    assert (upwards.counts[:2] == alone.counts[:2]).all() and (upwards.norms[:2] == alone.norms[:2]).all()


@pytest.mark.parametrize("name", ["pgd", "strong"])
def test_a_slice_does_not_depend_on_its_batch(name: str) -> None:
    whole = found(noise(name), LEVELS["l2"], 5)
    parts = found(noise(name), LEVELS["l2"], 2)
    assert (parts.counts == whole.counts).all() and parts.forwards == whole.forwards


class Hungry(Network):
    """Asks torch for memory that nobody has where it is given more than two slices."""

    def forward(self, x: Tensor) -> Tensor:
        torch.empty((1 << 60) if len(x) > 2 else 1)
        return super().forward(x)


def test_a_batch_in_parts_goes_up_the_levels_alike() -> None:
    whole, parts = (found(noise("pgd"), LEVELS["l2"], 5, Target(net.eval(), Labels())) for net in (Network(), Hungry()))
    assert (parts.counts == whole.counts).all() and (parts.norms == whole.norms).all()


class Threshold(nn.Module):
    """Pixels above 1/2 are the first class, the second is nowhere; `samples` counts the slices it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.samples += len(x)
        return torch.cat([torch.zeros_like(x), 4 * (x - 0.5), -4 - x.abs()], 1)


def squares(*sides: int) -> list[Slice]:
    """Slices with one square each: the larger, the more noise it takes to lose it."""
    images = [torch.zeros(1, 12, 12) for _ in sides]
    for image, side in zip(images, sides, strict=True):
        image[:, 3 : 3 + side, 3 : 3 + side] = 1
    return [Slice("case", number, image, image.clone()) for number, image in enumerate(images)]


LOSING = ("pgd", "cospgd", "ifgsm", "apgd", "strong", "vanish")


@pytest.mark.parametrize("name", LOSING)
def test_lost_slices_cost_nothing(name: str) -> None:
    network, settings = Threshold(), replace(STEPS, steps=20, strong_steps=10)
    levels, items, spent, lost = [0.0, 1.5, 8.0, 16.0, 32.0], squares(1, 6), [], []
    one, attacked = nested(attack(name, settings), levels), Target(network, Labels())
    for _, outcome in outcomes(attacked, items, one, levels, 0):
        spent.append(network.samples)
        lost.append((left(one, outcome.counts) == 0).tolist())
    # The weights of its pixels keep CosPGD from the small square at first.
    assert lost == [[False, False], [name != "cospgd", False], *[[True, True]] * 3]
    assert spent[1] > spent[0] and spent[2] > spent[1] and spent[2] == spent[3] == spent[4]
    # The second level costs what it costs without the slices that were lost at the first.
    alone, before = Threshold(), 0
    rest = [item for item, gone in zip(items, lost[1], strict=True) if not gone]
    for level, _ in outcomes(Target(alone, Labels()), rest, one, levels[:3], 0):
        alone.samples, before = 0, alone.samples
        assert level < 8 or before == spent[2] - spent[1]


def test_forwards_are_counted() -> None:
    """FGSM of a slice: forward, backward, forward at its end, and one that counts; one without noise."""
    assert found(attack("fgsm", STEPS), [0.0, 0.5, 1.0]).forwards == 5 * (1 + 4 + 4)
    whole = sweep(target(), slices(), plan(Choice((0.5,), ("fgsm",), settings=STEPS), STEPS), 2, progress=False)
    assert {name: one.forwards for name, one in whole.found.items()} == {"fgsm": 25, "random": 10}


def test_an_interrupted_run_continues_and_ends_with_the_same(tmp_path: Path) -> None:
    whole = target()
    undisturbed = found(noise("pgd"), LEVELS["l2"], attacked=whole)
    plans = [(noise("pgd"), LEVELS["l2"])]
    sweep(target(), slices(), plans, 2, journal=Journal(tmp_path, {"model": "a"}), progress=False)
    # Killed within the levels of the second of three batches.
    file = tmp_path / "journal" / "rank0.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[: 1 + 3 + 2]))
    again, attacked = Journal(tmp_path, {"model": "a"}), target()
    continued = sweep(attacked, slices(), plans, 2, journal=again, progress=False).found["pgd"]
    assert (continued.counts == undisturbed.counts).all() and (continued.norms == undisturbed.norms).all()
    assert continued.forwards == undisturbed.forwards
    assert 0 < attacked.network.calls < whole.network.calls  # type: ignore[attr-defined]


def test_nested_levels_and_others_are_other_noises(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"model": "a"})
    alone = attack("pgd", STEPS)
    for one, levels in ((alone, [0.5, 2.0]), (nested(alone, [0.5, 2.0]), [0.5, 2.0]), (nested(alone, [2.0]), [2.0])):
        sweep(target(), slices(), [(one, levels)], 5, journal=journal, progress=False)
    assert len(journal.found) == 5


def test_the_noise_that_is_kept_is_the_one_that_was_counted(tmp_path: Path) -> None:
    one, attacked, items = noise("pgd"), target(), slices()
    keep = KeptNoise(Journal(tmp_path, {"model": "a"}), one)
    upwards = sweep(attacked, items, [(one, LEVELS["l2"])], 2, keep=keep, progress=False)
    for row, level in enumerate(LEVELS["l2"][1:], start=1):
        for column, item in enumerate(items):
            assert upwards.slices[column] == (item.case, item.number)
            noisy = item.image[None] + torch.from_numpy(keep.of_case(item.case, level)[item.number])
            with torch.no_grad():
                counts = attacked.objective().counts(attacked.network(noisy), item.reference[None])
            assert (counts[0].numpy() == upwards.found["pgd"].counts[row, column]).all()


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_goes_up_all_levels_of_its_batches(ranks: int) -> None:
    choice = Choice((1.0, 5.0), ("pgd", "strong"), corruptions=("white",), nested=True)
    batches = [[None] * 4] * 5
    own = [item for items in shares(_work(plan(choice, choice.settings), batches), batches, ranks) for item in items]
    assert sorted((one.name, levels, batch) for one, levels, batch in own if one.family == "attack") == sorted(
        (name, (0.0, 1.0, 5.0), batch) for name in ("pgd", "strong") for batch in range(5)
    )
    assert all(len(levels) == 1 for one, levels, _ in own if one.family != "attack")
