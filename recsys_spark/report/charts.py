"""Charts as shapes with coordinates, for the page's template to draw as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 14, 46
_ROW = 26
_LONGEST_LABEL = 30


@dataclass(frozen=True, slots=True)
class Rect:
    """A bar; ``style`` is a class of the page's style sheet, ``says`` what a pointer on it is told."""

    x: float
    y: float
    width: float
    height: float
    style: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Connected points."""

    points: Sequence[tuple[float, float]]
    style: str

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class Dot:
    """A point."""

    x: float
    y: float
    style: str
    says: str = ""
    radius: float = 4.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text; ``anchor`` is SVG's ``start``, ``middle`` or ``end``."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    style: str = "tick"


@dataclass(slots=True)
class Chart:
    """A chart: what it is called, what it says in a sentence, and its shapes.

    Attributes
    ----------
    title : str
    summary : str
        For those who cannot see it.
    x_title, y_title : str
        With units.
    legend : list of (style, text)
    header, rows : list
        The numbers, as a table below the chart.
    """

    title: str
    summary: str
    x_title: str = ""
    y_title: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    rects: list[Rect] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers -> places on the page."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def round_ticks(low: float, high: float, n: int = 5) -> list[float]:
    """Return about ``n`` round numbers that reach from at most ``low`` to at least ``high``."""
    if not high > low:
        high = low + max(abs(low), 1.0)
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def short_number(value: float) -> str:
    """Return a number as an axis has room for it: 12.3M, 45k, 0.05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def shortened(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Return a text that is cut where it is too long for a chart."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def bar_chart(
    title: str,
    summary: str,
    names: Sequence[str],
    series: dict[str, Sequence[float]],
    *,
    x_title: str,
    y_title: str,
    stacked: bool = False,
    unit: str = "",
) -> Chart:
    """Draw one group of bars per name: side by side, or one on another.

    Parameters
    ----------
    title, summary : str
    names : sequence of str
        Of the groups; where they are many, not all are written.
    series : dict of str to sequence of float
        By name of the series, a value of 0 or more for each group.
    x_title, y_title : str
    stacked : bool
    unit : str
        After numbers in the table and at the pointer.
    """
    chart = Chart(title, summary, x_title, y_title)
    tops = [sum(column) if stacked else max(column) for column in zip(*series.values(), strict=True)]
    y = _vertical(chart, [0.0, max(tops, default=0.0)])
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(names), 1)
    bar = slot * (0.86 if stacked or len(series) == 1 else 0.86 / len(series))
    for group, name in enumerate(names):
        base = 0.0
        for number, (series_name, values) in enumerate(series.items()):
            value = values[group]
            left = _LEFT + group * slot + slot * 0.07 + (0 if stacked else number * bar)
            top, bottom = y(base + value), y(base)
            says = f"{name}, {series_name}: {value:,.6g}{unit}"
            chart.rects.append(Rect(left, top, bar, max(bottom - top, 0.0), f"s{number + 1}", says))
            base += value if stacked else 0.0
    every = max(1, math.ceil(len(names) * max(map(len, names), default=1) * 7.5 / (WIDTH - _LEFT - _RIGHT)))
    for group in range(0, len(names), every):
        chart.labels.append(Label(_LEFT + (group + 0.5) * slot, HEIGHT - _BOTTOM + 16, names[group]))
    if len(series) > 1:
        chart.legend = [(f"s{number + 1}", name) for number, name in enumerate(series)]
    chart.header = [x_title, *series]
    columns = zip(names, *series.values(), strict=True)
    chart.rows = [[name, *(f"{value:,.6g}{unit}" for value in values)] for name, *values in columns]
    return chart


def interval_chart(
    title: str, summary: str, rows: Sequence[tuple[str, str, float, float | None, float | None]], *, x_title: str
) -> Chart:
    """Draw a dot per row, with a line from the lower to the upper end of its interval.

    Parameters
    ----------
    title, summary : str
    rows : sequence of (name, style, value, low, high)
    x_title : str
    """
    left = 30 + 8.4 * min(max((len(name) for name, *_ in rows), default=0), _LONGEST_LABEL)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    chart = Chart(title, summary, x_title, height=height)
    ends = [end for _, _, *values in rows for end in values if end is not None]
    ticks = round_ticks(min(ends, default=0.0), max(ends, default=1.0), 4)
    x = Scale(ticks[0], ticks[-1], left, WIDTH - _RIGHT - 12)
    bottom = height - _BOTTOM
    for tick in ticks:
        chart.lines.append(Line([(x(tick), _TOP - 4), (x(tick), bottom)], "grid"))
        chart.labels.append(Label(x(tick), bottom + 16, short_number(tick)))
    for number, (name, style, value, low, high) in enumerate(rows):
        y = _TOP + (number + 0.5) * _ROW
        chart.labels.append(Label(left - 10, y + 4, shortened(name), "end"))
        says = f"{name}: {value:.4f}"
        if low is not None and high is not None:
            chart.lines.append(Line([(x(low), y), (x(high), y)], f"whisker {style}"))
            says += f" ({low:.4f} to {high:.4f})"
        chart.dots.append(Dot(x(value), y, style, says, 5))
    chart.header = ["", "value", "from", "to"]
    chart.rows = [[name, *(_cell(v) for v in (value, low, high))] for name, _, value, low, high in rows]
    return chart


def calibration_chart(title: str, summary: str, bins: Sequence[dict[str, float]], *, unit: str) -> Chart:
    """Draw what happened against what was predicted, bin by bin; on the diagonal, predictions are right."""
    chart = Chart(title, summary, f"mean prediction ({unit})", f"held-out mean ({unit})")
    values = [value for part in bins for value in (part["predicted"], part["actual"])]
    y = _vertical(chart, values)
    x = _horizontal(chart, values)
    low, high = max(x.low, y.low), min(x.high, y.high)
    chart.lines.append(Line([(x(low), y(low)), (x(high), y(high))], "diagonal"))
    chart.lines.append(Line([(x(part["predicted"]), y(part["actual"])) for part in bins], "series s1"))
    most = max((part["n"] for part in bins), default=1)
    for part in bins:
        says = f"predicted {part['predicted']:.3f}, was {part['actual']:.3f}: {part['n']:,} ratings"
        radius = 3 + 6 * math.sqrt(part["n"] / most)
        chart.dots.append(Dot(x(part["predicted"]), y(part["actual"]), "s1", says, radius))
    chart.legend = [
        ("s1", "bins of predictions; larger with more ratings"),
        ("diagonal", "where predictions are right"),
    ]
    chart.header = ["predicted", "actual", "ratings"]
    chart.rows = [[f"{p['predicted']:.4f}", f"{p['actual']:.4f}", f"{p['n']:,}"] for p in bins]
    return chart


def timeline_chart(title: str, summary: str, spans: Sequence[tuple[str, float, float]], *, x_title: str) -> Chart:
    """Draw a bar per name from its start to its end.

    Parameters
    ----------
    title, summary : str
    spans : sequence of (name, start, length)
        From 0.
    x_title : str
    """
    left = 30 + 8.4 * max((len(name) for name, *_ in spans), default=0)
    height = _TOP + _ROW * len(spans) + _BOTTOM
    chart = Chart(title, summary, x_title, height=height)
    end = max((start + length for _, start, length in spans), default=1.0)
    ticks = round_ticks(0.0, end, 4)
    x = Scale(0.0, ticks[-1], left, WIDTH - _RIGHT - 40)
    bottom = height - _BOTTOM
    for tick in ticks:
        chart.lines.append(Line([(x(tick), _TOP - 4), (x(tick), bottom)], "grid"))
        chart.labels.append(Label(x(tick), bottom + 16, short_number(tick)))
    for number, (name, start, length) in enumerate(spans):
        y = _TOP + number * _ROW
        chart.labels.append(Label(left - 10, y + 17, name, "end"))
        says = f"{name}: {length:.1f} s, from {start:.1f} s on"
        chart.rects.append(Rect(x(start), y + 4, max(x(start + length) - x(start), 1.5), _ROW - 8, "s1", says))
        chart.labels.append(Label(x(start + length) + 6, y + 17, f"{length:.1f} s", "start"))
    chart.header = ["", "starts after", "takes"]
    chart.rows = [[name, f"{start:.1f} s", f"{length:.1f} s"] for name, start, length in spans]
    return chart


def line_chart(
    title: str,
    summary: str,
    xs: Sequence[float],
    series: dict[str, Sequence[float]],
    *,
    x_title: str,
    y_title: str,
) -> Chart:
    """Draw a line per series over the same numbers."""
    chart = Chart(title, summary, x_title, y_title)
    y = _vertical(chart, [0.0, *(value for values in series.values() for value in values)])
    x = _horizontal(chart, xs)
    for number, (name, values) in enumerate(series.items()):
        style = f"s{number + 1}"
        points = [(x(place), y(value)) for place, value in zip(xs, values, strict=True)]
        chart.lines.append(Line(points, f"series {style}"))
        for place, value, (left, top) in zip(xs, values, points, strict=True):
            chart.dots.append(Dot(left, top, style, f"{name}, {place:g}: {value:.4g}", 3.5))
    chart.legend = [(f"s{number + 1}", name) for number, name in enumerate(series)]
    chart.header = [x_title, *series]
    columns = zip(xs, *series.values(), strict=True)
    chart.rows = [[f"{place:g}", *(f"{value:.4g}" for value in values)] for place, *values in columns]
    return chart


def _vertical(chart: Chart, values: Sequence[float]) -> Scale:
    """Draw the vertical axis and return its scale."""
    ticks = round_ticks(min(values, default=0.0), max(values, default=1.0))
    scale = Scale(ticks[0], ticks[-1], HEIGHT - _BOTTOM, _TOP)
    for tick in ticks:
        chart.lines.append(Line([(_LEFT, scale(tick)), (WIDTH - _RIGHT, scale(tick))], "grid"))
        chart.labels.append(Label(_LEFT - 7, scale(tick) + 4, short_number(tick), "end"))
    return scale


def _horizontal(chart: Chart, values: Sequence[float]) -> Scale:
    """Draw the horizontal axis of numbers and return its scale."""
    ticks = round_ticks(min(values, default=0.0), max(values, default=1.0))
    scale = Scale(ticks[0], ticks[-1], _LEFT + 6, WIDTH - _RIGHT - 6)
    for tick in ticks:
        chart.labels.append(Label(scale(tick), HEIGHT - _BOTTOM + 16, short_number(tick)))
    return scale


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
