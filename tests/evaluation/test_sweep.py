"""The noise sweep: what it counts, where memory is short, and what several processes and a journal make of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation.evaluate import _check_band
from nnunet_ima.evaluation.journal import Journal, digest
from nnunet_ima.evaluation.noises import ATTACKS, Settings, Target, attack, random_noise
from nnunet_ima.evaluation.summary import WORST, worst_of
from nnunet_ima.evaluation.sweep import Plan, sweep
from nnunet_ima.evaluation.under_noise import within_memory
from nnunet_ima.segmentation.cases.slices import Slice
from nnunet_ima.segmentation.objectives.dice import SegmentationObjective

SLICES = [Slice(f"case{number}", number, torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)) for number in range(7)]
STEPS = Settings(steps=5, strong_steps=6, queries=20, spsa_samples=8, spsa_steps=3, vanish=0)


class Labels:
    """What nnU-Net's label manager says of two plain classes."""

    has_regions = False
    foreground_labels = (1, 2)
    ignore_label = None


class Network(nn.Module):
    """Two convolutions with fixed weights; `calls` counts its forwards."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = 3 * self.layers(x)
        return out


def target() -> Target:
    return Target(Network().eval(), Labels(), Network().eval())


def slices(count: int = 5) -> list[Slice]:
    """Slices whose reference is what the network finds without noise."""
    network = target().network
    images = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(images).argmax(1, keepdim=True)
    return [Slice(f"case{number // 2}", number, images[number], found[number]) for number in range(count)]


class InMemory:
    """Slices that are there already, for what else would read them from cases."""

    def __init__(self, slices: list[Slice]) -> None:
        self.places, self.read = slices, list


def plan(*names: str) -> Plan:
    noises = [attack(name, STEPS) for name in names]
    return [(noise, [0.0, 0.5, 2.0]) for noise in [*noises, random_noise(STEPS)]]


@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in ATTACKS for norm in ("l2", "linf") if (name, norm) != ("frequency", "linf")],
)
def test_every_attack_keeps_to_the_level_and_lowers_dice(name: str, norm: str) -> None:
    settings = Settings(**{**vars(STEPS), "norm": norm})
    levels = [0.0, 0.5, 2.0] if norm == "l2" else [0.0, 0.04, 0.2]
    found = sweep(target(), slices(), [(attack(name, settings), levels)], 2, progress=False).found[name]
    for row, level in enumerate(levels):
        assert (found.norms[row] <= level * (1 + 1e-5) + 1e-9).all()
    dice = [SegmentationObjective.of(Labels()).num_foreground * 0 + _dice(counts) for counts in found.counts]
    assert dice[0] == 1 and dice[2] < 1
    assert dice[2] <= dice[1] + 1e-9 or name in ("transfer", "vanish", "spsa", "square")


def test_a_band_is_another_attack_and_the_whole_spectrum_finds_more_than_a_part_of_it() -> None:
    journal_names, dice = set(), []
    for band in ((0.75, 1.0), (0.0, 1.0)):
        noise = attack("frequency", Settings(steps=10, band=band))
        journal_names.add(digest(noise.settings))
        dice.append(_dice(sweep(target(), slices(), [(noise, [2.0])], 5, progress=False).found["frequency"].counts[0]))
    assert len(journal_names) == 2
    assert dice[1] < dice[0]


def test_a_band_without_any_frequency_of_a_slice_is_refused() -> None:
    """It would leave every slice as it is, and a model would look robust."""
    _check_band(SLICES, (0.01, 0.13))
    with pytest.raises(UserError, match=r"--band 0.01,0.1 holds no frequency of a slice of 8 x 8 pixels: widen it"):
        _check_band(SLICES, (0.01, 0.1))


def _dice(counts: np.ndarray) -> float:
    tp, fp, fn = counts.sum((0, 1))
    return float(2 * tp / (2 * tp + fp + fn))


def test_random_noise_has_exactly_the_norm_of_the_level() -> None:
    found = sweep(target(), slices(), plan("pgd"), 2, progress=False).found["random"]
    assert found.norms == pytest.approx(np.array([[0.0] * 5, [0.5] * 5, [2.0] * 5]), rel=1e-5)


def test_the_worst_of_all_attacks_is_taken_slice_by_slice() -> None:
    found = sweep(target(), slices(), plan("fgsm", "pgd", "square"), 5, progress=False).found
    attacks = [one for one in found.values() if one.noise.family == "attack"]
    worst = worst_of(attacks)
    assert worst.noise.name == WORST
    for row in range(3):
        for column in range(5):
            each = [_dice(one.counts[row, column : column + 1]) for one in attacks]
            assert any((worst.counts[row, column] == one.counts[row, column]).all() for one in attacks)
            assert _dice(worst.counts[row, column : column + 1]) <= max(each)


def test_the_strong_attack_finds_at_least_what_each_of_its_losses_finds() -> None:
    settings = Settings(strong_steps=20, steps=20)
    found = sweep(
        target(), slices(), [(attack(name, settings), [2.0]) for name in ("fgsm", "strong")], 5, progress=False
    )
    assert _dice(found.found["strong"].counts[0]) < _dice(found.found["fgsm"].counts[0])


def test_a_journal_spares_what_was_done_and_gives_the_same(tmp_path: Path) -> None:
    undisturbed = sweep(target(), slices(), plan("pgd"), 2, progress=False)
    first = Journal(tmp_path, {"model": "a"})
    sweep(target(), slices(), plan("pgd")[:1], 2, journal=first, progress=False)
    # Killed while it wrote a line: the last one is torn, the one before is lost.
    file = tmp_path / "journal" / "rank0.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-2]) + lines[-2][:17])
    again, attacked = Journal(tmp_path, {"model": "a"}), target()
    continued = sweep(attacked, slices(), plan("pgd"), 2, journal=again, progress=False)
    for name, one in undisturbed.found.items():
        assert (continued.found[name].counts == one.counts).all()
        assert (continued.found[name].norms == one.norms).all()
    done, whole = attacked.network, target()
    sweep(whole, slices(), plan("pgd"), 2, progress=False)
    assert 0 < done.calls < whole.network.calls  # type: ignore[attr-defined]
    assert len(Journal(tmp_path, {"model": "a"}).found) == 3 * 3 * 2


def test_other_settings_of_an_attack_are_another_attack(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"model": "a"})
    sweep(target(), slices(), [(attack("pgd", STEPS), [1.0])], 5, journal=journal, progress=False)
    other = Settings(**{**vars(STEPS), "steps": 6})
    sweep(target(), slices(), [(attack("pgd", other), [1.0])], 5, journal=journal, progress=False)
    assert len(journal.found) == 2


def test_the_journal_of_another_run_is_in_the_way(tmp_path: Path) -> None:
    Journal(tmp_path, {"model": "a", "seed": "0"}).add(("pgd", 1.0, 0), {"counts": []})
    with pytest.raises(UserError, match=r"another run \(model a instead of b\): name another folder with -o, or"):
        Journal(tmp_path, {"model": "b", "seed": "0"})
    assert Journal(tmp_path, {"model": "a", "seed": "0"}).found
    assert not Journal(tmp_path, {"model": "b", "seed": "0"}, overwrite=True).found
    assert not list((tmp_path / "journal").iterdir())


def test_a_journal_with_rubbish_in_it_is_read_around(tmp_path: Path) -> None:
    Journal(tmp_path, {"model": "a"}).add(("pgd", 1.0, 0), {"counts": [1]})
    with (tmp_path / "journal" / "rank0.jsonl").open("ab") as file:
        file.write(b"\x00\x00rubbish\n")
    assert Journal(tmp_path, {"model": "a"}).found == {("pgd", 1.0, 0): {"counts": [1]}}


def _needs_memory(limit: int) -> tuple[list[int], Callable[[Sequence[Slice]], list[int]]]:
    """An attack that really asks torch for memory nobody has when its batch is larger than `limit`."""
    sizes: list[int] = []

    def attacked(batch: Sequence[Slice]) -> list[int]:
        sizes.append(len(batch))
        torch.empty((1 << 60) if len(batch) > limit else 1)
        return [item.number for item in batch]

    return sizes, attacked


def test_a_batch_too_large_is_taken_in_parts_and_in_order() -> None:
    sizes, attacked = _needs_memory(2)
    found = within_memory(attacked, SLICES)
    assert [number for part in found for number in part] == list(range(7))
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_slice_too_large_alone_is_named() -> None:
    _, attacked = _needs_memory(0)
    with pytest.raises(UserError, match="Slice 0 of case case0, 1 x 8 x 8, does not fit into memory"):
        within_memory(attacked, SLICES)


def test_other_errors_pass() -> None:
    def attacked(batch: Sequence[Slice]) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        within_memory(attacked, SLICES)
