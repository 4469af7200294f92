"""The order of cases, how it is judged, and what is written and said of it."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_ima.evaluation.check_predictions import CLEAN, Row, judgements, ordered, write_cases
from nnunet_ima.report.predictions import answer, table, write

ROWS = [
    Row("a", CLEAN, {"pairwise_dice": 90.0, "smallest_noise": 3.0}, 10.0, 5),
    Row("b", CLEAN, {"pairwise_dice": 70.0, "smallest_noise": 4.0}, 30.0, 5),
    Row("c", CLEAN, {"pairwise_dice": 90.0, "smallest_noise": 2.0}, 20.0, 5),
]
NOISY = [replace(row, condition=("blur", 3), risk=(row.risk or 0) + 30) for row in ROWS]
WITHOUT = [replace(row, risk=None) for row in ROWS]


def test_the_likeliest_wrong_comes_first_and_ties_go_by_the_next_score() -> None:
    assert [row.case for row in ordered(ROWS, "pairwise_dice")] == ["b", "c", "a"]
    assert [row.case for row in ordered(ROWS, "smallest_noise")] == ["c", "a", "b"]


def test_each_condition_is_judged_and_all_together() -> None:
    first, noisy, together = judgements([*ROWS, *NOISY])
    assert (first["corruption"], noisy["severity"], together["corruption"]) == ("none", 3, "all together")
    # Risks 15, 15 (equal: the mean of 10 and 20), 30 in the order of the score.
    assert first["scores"]["pairwise_dice"]["aurc"] == pytest.approx((15 + 15 + 20) / 3, abs=1e-3)
    assert first["random"] == 20 and first["ideal"] == pytest.approx((10 + 15 + 20) / 3, abs=1e-3)
    # b has the surest noise and the largest risk.
    assert first["scores"]["smallest_noise"]["aurc"] == pytest.approx((30 + 20 + 20) / 3, abs=1e-3)
    assert noisy["random"] == 50 and together["random"] == 35 and together["cases"] == 3
    found = first["scores"]["pairwise_dice"]
    assert found["gain"] == pytest.approx(20 - found["aurc"], abs=1e-3)
    assert found["share_of_ideal"] == pytest.approx(100 * (20 - 50 / 3) / 5, abs=0.01)
    assert len(judgements(ROWS)) == 1
    json.dumps([first, together], allow_nan=False)


def test_nothing_is_judged_without_references_or_of_one_case() -> None:
    assert judgements(WITHOUT) == [] == judgements([ROWS[0], NOISY[0]])


def test_equal_risks_have_no_share_of_the_ideal_order() -> None:
    (found,) = judgements([replace(row, risk=5.0) for row in ROWS])
    assert found["scores"]["pairwise_dice"] | {"aurc_interval": 0} == {
        "aurc": 5,
        "aurc_interval": 0,
        "gain": 0,
        "gain_interval": [0, 0],
        "share_of_ideal": None,
    }


def test_cases_are_written_in_their_order(tmp_path: Path) -> None:
    write_cases(tmp_path, [*ROWS, *NOISY], "pairwise_dice")
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["corruption"], row["rank"], row["case"]) for row in rows[:3]] == [
        ("none", "1", "b"),
        ("none", "2", "c"),
        ("none", "3", "a"),
    ]
    assert rows[0]["plain_dice"] == "" and float(rows[0]["dice"]) == 70 and float(rows[3]["risk"]) == 60


def told(rows: list[Row], by: str = "pairwise_dice") -> str:
    return " ".join(answer(rows, judgements(rows), by, ["plain_dice is left out: give it."]))


def test_the_answer_names_cases_and_what_is_missing() -> None:
    text = told([*ROWS, *NOISY])
    assert text.startswith("Check these first: b (70.0 %), c (90.0 %), a (90.0 %); the lower the pairwise Dice,")
    assert (
        "On 3 cases with references (no corruption), pairwise Dice finds bad ones best: AURC 16.7, a random order"
        in text
    )
    assert "(all together)" in text and text.endswith("plain_dice is left out: give it.")
    assert "Without references nothing tells how well" in told(WITHOUT)
    assert "b (4.0)" in told(ROWS, "smallest_noise") and "nothing in" not in text


def test_one_case_an_empty_one_and_one_that_lasts() -> None:
    one = told([replace(ROWS[0], found=0, lasting=True)])
    assert "a (90.0 %) stands alone: a single case has no order" in one and "AURC judges an order of cases" in one
    assert "The model finds nothing in a: is there nothing?" in one and "give a larger --largest" in one


@pytest.mark.parametrize("rows", [[*ROWS, *NOISY], WITHOUT, ROWS[:1]])
def test_the_files(tmp_path: Path, rows: list[Row]) -> None:
    judged = judgements(rows)
    content: dict[str, Any] = {
        "answer": ["A <sentence>."],
        "by": "pairwise_dice",
        "scores": ["pairwise_dice", "smallest_noise"],
        "judged": judged,
        "model": "M",
        "members": ["N"],
        "plain": None,
        "settings": {"command": "nnunet-ima-check-predictions"},
        "run": {"date": "2026-11-26T00:00:00", "device": "cpu", "seconds": 1.0},
    }
    write(tmp_path, rows, content)
    names = {"cases.csv", "scores.json", "answer.md", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == names | (
        {"risk_coverage.png", "risk_coverage.svg"} if judged else set()
    )
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "answer.md").read_text()
    assert "A &lt;sentence&gt;." in page and all(row.case in page for row in rows)
    assert json.loads((tmp_path / "scores.json").read_text())["judged"] == judged
    assert ("Risk-coverage curves" in page) == bool(judged) == ("| AURC | mean Dice |" in text)
    if judged:
        assert table(judged)[2] in text and "blur, severity 3" in page
