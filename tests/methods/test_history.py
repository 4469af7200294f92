import csv
import io
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes

from nnunet_ima.methods.history import History, plot_margins, time_left
from nnunet_ima.methods.margins import MarginStore, Outcomes
from nnunet_ima.methods.method import Tally


def grown_store(maximum: float = 10.0) -> MarginStore:
    """Five margins: 1, 3, 3, 3, 3, the first never seen."""
    store = MarginStore(range(5), 1.0, maximum)
    outcomes = Outcomes()
    outcomes.note([1, 2, 3, 4], [False] * 4, [3.0] * 4)
    store.update(outcomes)
    return store


def history(epochs: int, store: MarginStore) -> History:
    made = History()
    for epoch in range(epochs):
        seen = Tally(samples=10, eligible=8, correct=4, crossed=1, attack_steps=12, seconds=0.5, drawn=10, forwards=130)
        made.add(epoch, seen, store, 2.0, 5)
    return made


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_shares_of_the_epoch_and_where_the_margins_stand() -> None:
    row = history(1, grown_store()).rows[0]
    assert {key: row[key] for key in ("epoch", "correct", "crossed", "attack_steps", "attack_seconds", "seconds")} == {
        "epoch": 0,
        "correct": 0.5,
        "crossed": 0.25,
        "attack_steps": 3.0,
        "attack_seconds": 0.5,
        "seconds": 2.0,
    }
    assert (row["cost"], row["steps"], row["forwards"]) == (13.0, 5, 65.0)
    assert history(3, grown_store()).rows[-1]["forwards"] == 195.0
    assert row["margin_mean"] == pytest.approx(13 / 5)
    assert row["margin_q50"] == 3.0
    # A fifth of the way from the smallest to the second.
    assert row["margin_q05"] == pytest.approx(1.4)
    assert row["visited"] == pytest.approx(0.8)


def test_both_files_are_written_whole_and_nothing_else(tmp_path: Path) -> None:
    store = grown_store()
    history(3, store).write(tmp_path, store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["margins.csv", "margins.png"]
    rows = rows_of(tmp_path / "margins.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["margin_mean"] == "2.6"
    assert rows[0]["crossed"] == "0.25"
    assert (tmp_path / "margins.png").read_bytes().startswith(b"\x89PNG")


def test_a_continued_training_continues_the_rows(tmp_path: Path) -> None:
    store = grown_store()
    buffer = io.BytesIO()
    torch.save(history(2, store).state(), buffer)
    buffer.seek(0)
    continued = History()
    continued.load_state(torch.load(buffer, weights_only=True))
    assert continued.rows == history(2, store).rows
    continued.add(2, Tally(), store, 1.0, 5)
    continued.write(tmp_path, store)
    assert [row["epoch"] for row in rows_of(tmp_path / "margins.csv")] == ["0", "1", "2"]


def test_the_state_is_a_copy() -> None:
    made = history(1, grown_store())
    state = made.state()
    made.rows[0]["epoch"] = 99
    assert state[0]["epoch"] == 0


def test_the_last_line_tells_the_last_epoch() -> None:
    made = history(1, grown_store())
    made.add(1, Tally(eligible=4, correct=1, crossed=1, attack_steps=7), grown_store(), 1.0, 5)
    line = made.last_line()
    assert "correct 25.0%, crossed 100.0%" in line
    assert "margin 2.600 (median 3.000)" in line
    assert "7.0 attack steps" in line


@pytest.mark.parametrize("maximum", [3.0, 0.7, 0.1 * 82**0.5])
def test_the_histogram_shows_every_sample_also_those_at_the_largest_margin(
    maximum: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = grown_store(maximum)
    assert store.margins.max().item() == maximum
    drawn: list[float] = []
    original = Axes.hist

    def hist(self: Axes, *args: object, **kwargs: object) -> object:
        result = original(self, *args, **kwargs)  # type: ignore[arg-type]
        # Stacked: the last row of counts is the sum of all.
        drawn.append(float(result[0][-1].sum()))  # type: ignore[union-attr, index]
        return result

    monkeypatch.setattr(Axes, "hist", hist)
    plot_margins(history(2, store).rows, store, tmp_path / "margins.png")
    assert drawn == [5.0]


@pytest.mark.parametrize(
    ("seconds", "epochs", "text"),
    [
        (90.0, 40, "40 epochs left, about 1 h 00 min"),
        (20.0, 7, "7 epochs left, about 0 h 02 min"),
        (75.0, 1, "1 epoch left, about 0 h 01 min"),
    ],
)
def test_time_left_goes_by_the_last_epoch(seconds: float, epochs: int, text: str) -> None:
    assert time_left(seconds, epochs) == text
