"""What a running sweep shows."""

from pathlib import Path

import pytest

from nnunet_ima.evaluation.journal import Journal
from nnunet_ima.evaluation.noises import attack, random_noise
from nnunet_ima.evaluation.sweep import sweep
from nnunet_ima.metrics.indices import ADI
from tests.evaluation.test_sweep import STEPS, slices, target

PLAN = [(attack("pgd", STEPS), [0.0, 1.0]), (random_noise(STEPS), [0.0, 1.0])]
IDENTITY = {"slices": "5"}


def _rows(shown: str) -> list[list[str]]:
    """The rows of figures: slices, attack and ADI by level."""
    return [line.split() for line in shown.splitlines() if "pgd" in line]


def test_figures_are_written_as_they_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep(target(), slices(), PLAN, 2).found["pgd"]
    out, err = capsys.readouterr()
    rows = _rows(out)
    assert [row[0] for row in rows] == ["2", "4", "5"]
    # The last row holds the final figures, the first those of the first batch.
    assert rows[-1][2:] == [f"{100 * float(ADI(counts)):.2f}" for counts in found.counts]
    assert rows[0][2:] == [f"{100 * float(ADI(counts[:2])):.2f}" for counts in found.counts]
    assert "5/5 slices" in err
    assert "pgd 1: ADI" in err


def test_a_continued_run_starts_with_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(target(), slices(), [(PLAN[0][0], [0.0])], 2, journal=Journal(tmp_path, IDENTITY), progress=False)
    assert capsys.readouterr() == ("", "")
    sweep(target(), slices(), PLAN, 2, journal=Journal(tmp_path, IDENTITY))
    rows = _rows(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["2", "4", "5"]
    # Noise level 0 was known of all slices, level 1 of none.
    assert len({row[2] for row in rows}) == 1


def test_many_batches_give_few_rows(capsys: pytest.CaptureFixture[str]) -> None:
    many = [item for _ in range(20) for item in slices()]
    sweep(target(), many, [(PLAN[0][0], [0.0])], 1)
    rows = _rows(capsys.readouterr().out)
    assert 10 < len(rows) <= 20
    assert rows[-1][0] == str(len(many))
