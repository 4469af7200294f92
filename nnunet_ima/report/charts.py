"""Curves as inline SVG: values on hover without a script, colours that follow the page. The template draws them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 12, 44
LINE = 15
"""Height of a line of the values shown on hover."""
LETTER = 6.3
"""Width of one of its letters, about."""
LEAST_GAP = 24
"""Between two marks of the horizontal axis, in pixels of the drawing."""
DASHES = ("7 4", "7 3 2 3", "1 3", "4 6", "9 3 2 3 2 3", "12 4")
DOTS = "2 4"
COLORS = 6


@dataclass(frozen=True)
class Series:
    """values and the ends of their band in percent, None where there is none; color: its number; dash: of SVG."""

    name: str
    values: Sequence[float | None]
    color: int
    dash: str = ""
    band: Sequence[Sequence[float | None]] = ()


@dataclass(frozen=True)
class Row:
    """A line of the values shown on hover."""

    text: str
    color: int
    y: float


@dataclass(frozen=True)
class Column:
    """What is shown where the pointer is over one position of the horizontal axis: a box of values."""

    x: float
    left: float
    width: float
    head: str
    rows: list[Row]
    box_left: float
    box_width: float
    box_height: float


@dataclass(frozen=True)
class Drawn:
    """A series in the drawing: `line` and `band` as the `d` of a path."""

    color: int
    dash: str
    line: str
    band: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """alternative: what the curves show, in words."""

    title: str
    axis: str
    alternative: str
    ticks: list[tuple[float, str]]
    drawn: list[Drawn]
    columns: list[Column]


def chart(title: str, axis: str, positions: Sequence[float], heads: Sequence[str], series: Sequence[Series]) -> Chart:
    """Percent against the positions; heads: what each position is called above its values."""
    xs = [_x(position, positions) for position in positions]
    return Chart(
        title,
        axis,
        _in_words(title, positions, series),
        _ticks(positions),
        _drawings(xs, series),
        _columns(xs, heads, series),
    )


def legend(series: Sequence[Series]) -> list[Series]:
    """Each name once."""
    return list({one.name: one for one in series}.values())


def _x(position: float, positions: Sequence[float]) -> float:
    width = max(positions[-1] - positions[0], 1e-12)
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (position - positions[0]) / width, 1)


def height(value: float) -> float:
    """Of a value in percent, in the drawing."""
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / 100), 1)


def _ticks(positions: Sequence[float]) -> list[tuple[float, str]]:
    """Marks at the positions; of close ones the later is left out."""
    ticks: list[tuple[float, str]] = []
    for position in positions:
        x = _x(position, positions)
        if not ticks or x - ticks[-1][0] >= LEAST_GAP:
            ticks.append((x, f"{position:g}"))
    return ticks


def _drawings(xs: Sequence[float], series: Sequence[Series]) -> list[Drawn]:
    found = []
    for one in series:
        dots = [(x, height(value)) for x, value in zip(xs, one.values, strict=True) if value is not None]
        ends = [
            (x, height(low), height(high))
            for x, (low, high) in zip(xs, one.band, strict=False)
            if low is not None and high is not None
        ]
        there, back = [(x, high) for x, _, high in ends], [(x, low) for x, low, _ in reversed(ends)]
        found.append(Drawn(one.color % COLORS, one.dash, _path(dots), _path([*there, *back]), dots))
    return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " ".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def _columns(xs: Sequence[float], heads: Sequence[str], series: Sequence[Series]) -> list[Column]:
    middles = [(first + second) / 2 for first, second in pairwise(xs)]
    edges = [LEFT / 2, *middles, WIDTH]
    columns = []
    for number, (x, head) in enumerate(zip(xs, heads, strict=True)):
        texts = [(f"{_told(one, number)}  {one.name}", one.color % COLORS) for one in series]
        rows = [Row(text, color, TOP + LINE * (line + 2)) for line, (text, color) in enumerate(texts)]
        width = min(WIDTH - 2.0, LETTER * max(len(head), *(2 + len(text) for text, _ in texts)) + 12)
        left = x + 8 if x + 8 + width <= WIDTH else max(1.0, x - 8 - width)
        box = round(min(left, WIDTH - width - 1), 1), round(width, 1), LINE * (len(rows) + 1) + 8.0
        columns.append(Column(x, edges[number], round(edges[number + 1] - edges[number], 1), head, rows, *box))
    return columns


def _told(series: Series, number: int) -> str:
    value = series.values[number]
    return "none" if value is None else f"{value:.1f}"


def _in_words(title: str, positions: Sequence[float], series: Sequence[Series]) -> str:
    parts = []
    for one in series:
        known = [(at, value) for at, value in zip(positions, one.values, strict=True) if value is not None]
        if known:
            (start, first), (end, last) = known[0], known[-1]
            parts.append(f"{one.name}: {first:.0f} % at {start:g}, {last:.0f} % at {end:g}")
    return f"{title}. {'; '.join(parts)}."
