"""Mixes of two models and the rungs of a ladder: how they are made, chosen and refused."""

import csv
import math
from pathlib import Path

import pytest
import torch

from nnunet_ima.errors import UserError
from nnunet_ima.evaluation import ladder
from nnunet_ima.evaluation.ladder import Rung
from nnunet_ima.evaluation.soup import SHARES, Mix, check_same_network, chosen, measured, mixed_weights, write

NAMES = ("plain.pth", "hardened.pth")


def straight(share: float) -> Mix:
    """From 80 / 10 to 70 / 50, bent upwards without noise in the middle."""
    return Mix(share, 80 - 10 * share + 8 * share * (1 - share), (10 + 40 * share, 2 + 20 * share))


def test_weights_are_mixed_in_proportion() -> None:
    plain = {"w": torch.tensor([1.0, 2.0]), "half": torch.tensor([1.0], dtype=torch.float16), "n": torch.tensor(3)}
    other = {"w": torch.tensor([3.0, -2.0]), "half": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(5)}
    found = mixed_weights(plain, other, 0.25)
    assert found["w"].tolist() == [1.5, 1.0] and found["n"] == 5
    assert found["half"].dtype == torch.float16 and found["half"].item() == 1.25
    for share, end in ((0.0, plain), (1.0, other)):
        assert torch.equal(mixed_weights(plain, other, share)["w"], end["w"])


def test_networks_must_be_alike() -> None:
    check_same_network({"w": torch.zeros(2)}, {"w": torch.ones(2)}, NAMES)
    for other in ({"w": torch.zeros(3)}, {"v": torch.zeros(2)}):
        with pytest.raises(UserError, match=r"plain.pth and hardened.pth are different networks \(they differ in"):
            check_same_network({"w": torch.zeros(2)}, other, NAMES)


def test_all_shares_are_measured_once_ends_and_middle_first() -> None:
    told: list[Mix] = []
    found = measured(straight, NAMES, told.append)
    assert [mix.share for mix in found] == list(SHARES) == sorted(mix.share for mix in told)
    assert [mix.share for mix in told[:3]] == [0.0, 1.0, 0.5]


def test_models_without_a_common_ancestor_are_refused() -> None:
    def barrier(share: float) -> Mix:
        return Mix(share, 80 - 300 * share * (1 - share), (1.0,))

    told: list[Mix] = []
    with pytest.raises(UserError, match=r"hardened.pth was not hardened from plain.pth: half of each gives 5.0"):
        measured(barrier, NAMES, told.append)
    assert len(told) == 3, "the barrier is shown"


@pytest.mark.parametrize(("clean_loss", "share"), [(0.0, 0.0), (1.0, 0.25), (2.5, 0.5), (20.0, 1.0)])
def test_the_most_robust_mix_that_loses_little(clean_loss: float, share: float) -> None:
    mixes = [Mix(one, 80 - 4 * one - (2 * one**2), (10 + 40 * one,)) for one in SHARES]
    best = max(mix.share for mix in mixes if mix.clean >= 80 - clean_loss)
    assert chosen(mixes, clean_loss).share == best
    assert abs(best - share) <= 0.125


def test_a_share_can_be_named(tmp_path: Path) -> None:
    mixes = [straight(share) for share in SHARES]
    choice = chosen(mixes, 1.0, 0.75)
    assert choice.share == 0.75
    with pytest.raises(UserError, match=r"--share 0\.8 was not measured: give a multiple of 1/8"):
        chosen(mixes, 1.0, 0.8)
    write(tmp_path, mixes, choice, [5.0, 10.0], "ADI")
    with (tmp_path / "soup.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["0"] * 6 + ["1"] + ["0"] * 2
    assert float(rows[6]["mean_of_noisy"]) == pytest.approx((40 + 17) / 2)
    assert {path.name for path in tmp_path.iterdir()} == {"soup.csv", "soup.png", "soup.svg"}


RUNGS = [
    Rung(f"checkpoint_ladder_{number:03d}.pth", 10 * number - 1, float(number)).measured(80 - number, (10.0 * number,))
    for number in (1, 2, 3)
]


def test_the_rung_that_keeps_a_given_dice(tmp_path: Path) -> None:
    assert ladder.chosen(RUNGS, None) == RUNGS[1]
    assert ladder.chosen(RUNGS, 77.0) == RUNGS[2]
    assert ladder.chosen(RUNGS, 78.5) == RUNGS[0]
    with pytest.raises(UserError, match=r"--keep 90: no checkpoint has so much .* checkpoint_ladder_001.pth, has 79.0"):
        ladder.chosen(RUNGS, 90.0)
    ladder.write(tmp_path, RUNGS, RUNGS[1], [5.0])
    with (tmp_path / "ladder.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["chosen"] for row in rows] == ["0", "1", "0"] and rows[1]["margin"] == "2.000"


def test_methods_without_margins_have_a_ladder_too() -> None:
    rungs = [Rung(f"{number}", number, math.nan).measured(70.0, (float(number),)) for number in (1, 2)]
    figure = ladder.picture(rungs, ladder.chosen(rungs, 60), [5.0])
    assert figure.axes[0].get_xlabel() == "epoch"
