"""Line charts as inline SVG: no plotting library, no script needed, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MAX_POINTS = 400  # a longer curve is drawn as bin means


@dataclass(frozen=True)
class Line:
    """One curve. x, y [S]; low, high [S] draw a band; marked draws its points; smooth adds a running mean over it."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    marked: bool = False
    smooth: bool = True
    notes: tuple[str, ...] = ()  # a word beside each marked point


@dataclass(frozen=True)
class Mark:
    """An upright line at x with a word at its top. style: `alarm` or `keep`."""

    x: float
    word: str
    style: str


@dataclass(frozen=True)
class Chart:
    """A finished figure: the SVG, and what stands around it."""

    title: str
    unit: str
    note: str
    svg: str
    labels: tuple[str, ...] = field(default=())  # the legend; empty for a single curve


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str = "",
    note: str = "",
    x_label: str = "learner step",
    zero: bool = False,
    marks: Sequence[Mark] = (),
) -> Chart | None:
    """A chart of `lines`; None when no line has a finite point. zero: the y axis includes 0."""
    drawn = [line for line in (_finite(line) for line in lines) if len(line.x)]
    if not drawn:
        return None
    x_range = (min(line.x.min() for line in drawn), max(line.x.max() for line in drawn))
    heights = [v for line in drawn for v in (line.y, line.low, line.high) if v is not None]
    heights += [np.zeros(1)] * zero
    y_ticks = nice_ticks(min(v.min() for v in heights), max(v.max() for v in heights))
    x_ticks, frame = nice_ticks(*x_range), _Frame(x_range, (y_ticks[0], y_ticks[-1]))
    parts = [_grid(frame, x_ticks, y_ticks, x_label)]
    parts += [_upright(frame, mark, row) for row, mark in enumerate(marks)]
    parts += [_line(frame, line, colour) for colour, line in enumerate(drawn)]
    spoken = f"{title}. " + "; ".join(
        f"{line.label}: from {_short(line.y[0])} to {_short(line.y[-1])}" for line in drawn
    )
    spoken += "".join(f"; {mark.word} at {_short(mark.x)}" for mark in marks)
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken, quote=True)}" '
        f'data-x="{frame.x[0]:g},{frame.x[1]:g}" data-frame="{LEFT},{WIDTH - RIGHT},{TOP},{HEIGHT - BOTTOM}">'
        + "".join(parts)
        + "</svg>"
    )
    return Chart(title, unit, note, svg, tuple(line.label for line in drawn) if len(drawn) > 1 else ())


def nice_ticks(low: float, high: float, count: int = 5) -> np.ndarray:
    """About `count` round numbers that enclose [low, high], evenly spaced by 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = (low - abs(low) * 0.1, low + abs(low) * 0.1) if low else (0.0, 1.0)
    raw = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.arange(first, last + 1) * step


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` points, over fewer at the ends. [S] -> [S]."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.arange(len(y))
    left, right = np.maximum(ends - window // 2, 0), np.minimum(ends + window // 2 + 1, len(y))
    return (sums[right] - sums[left]) / (right - left)


@dataclass(frozen=True)
class _Frame:
    """Data ranges -> places in the view box."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: np.ndarray) -> np.ndarray:
        span = (self.x[1] - self.x[0]) or 1.0
        return LEFT + (value - self.x[0]) / span * (WIDTH - LEFT - RIGHT)

    def at_y(self, value: np.ndarray) -> np.ndarray:
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)


def _finite(line: Line) -> Line:
    """Without missing points, and binned to at most MAX_POINTS."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    keep = np.isfinite(x) & np.isfinite(y)
    bands = [None if band is None else np.asarray(band, np.float64)[keep] for band in (line.low, line.high)]
    x, y = x[keep], y[keep]
    if len(x) > MAX_POINTS:
        x, y, *bands = [None if v is None else _binned(v) for v in (x, y, *bands)]  # type: ignore[assignment]
    return Line(line.label, x, y, bands[0], bands[1], line.marked, line.smooth, line.notes)


def _binned(values: np.ndarray) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(values, MAX_POINTS)])


def _grid(frame: _Frame, x_ticks: np.ndarray, y_ticks: np.ndarray, x_label: str) -> str:
    parts = []
    for value in y_ticks:
        y = frame.at_y(value)
        style = "grid zero" if abs(value) < 1e-12 else "grid"
        parts.append(f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value, y_ticks)}</text>'
        )
    for value in x_ticks:
        x = frame.at_x(value)
        if LEFT - 1 <= x <= WIDTH - RIGHT - 7 * len(x_label) - 14:  # the label of the axis stands at its right end
            words = _tick(value, x_ticks)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{words}</text>')
    parts.append(
        f'<text class="tick label" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_label)}</text>'
    )
    return "".join(parts)


def _line(frame: _Frame, line: Line, colour: int) -> str:
    style, parts = f"c{colour % 6}", []
    x = frame.at_x(line.x)
    if line.low is not None and line.high is not None:
        outline = np.concatenate([x, x[::-1]]), np.concatenate([frame.at_y(line.high), frame.at_y(line.low[::-1])])
        parts.append(f'<polygon class="band {style}" points="{_points(*outline)}"/>')
    bold = line.y
    if line.smooth and len(line.y) >= 12:
        parts.append(f'<polyline class="raw {style}" points="{_points(x, frame.at_y(line.y))}"/>')
        bold = running_mean(line.y, max(3, len(line.y) // 12))
    places = _points(x, frame.at_y(bold))
    spoken = escape(line.label, quote=True)
    data = f'data-label="{spoken}" data-values="{" ".join(_short(v) for v in bold)}"'
    parts.append(f'<polyline class="line {style}" points="{places}" {data}/>')
    if line.marked or len(line.x) == 1:
        parts.append(_marks(x, frame.at_y(line.y), line, style))
    return "".join(parts)


def _marks(x: np.ndarray, y: np.ndarray, line: Line, style: str) -> str:
    dots = "".join(
        f'<circle class="dot {style}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in zip(x, y, strict=True)
    )
    words = zip(x, y, line.notes, strict=False)
    return dots + "".join(
        f'<text class="tick" x="{min(a, WIDTH - 34):.1f}" y="{max(b - 8, 12):.1f}" '
        f'text-anchor="middle">{escape(n)}</text>'
        for a, b, n in words
    )


def _upright(frame: _Frame, mark: Mark, row: int) -> str:
    """`row`: each word stands lower than the one before, so that two marks of one place can be read."""
    x, style = float(frame.at_x(np.array([mark.x]))[0]), escape(mark.style, quote=True)
    left = x > (LEFT + WIDTH - RIGHT) / 2
    place = f'x="{x - 5 if left else x + 5:.1f}" y="{TOP + 11 + 14 * row}" text-anchor="{"end" if left else "start"}"'
    return (
        f'<line class="mark {style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tick mark {style}" {place}>{escape(mark.word)} {_short(mark.x)}</text>'
    )


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _tick(value: float, ticks: np.ndarray) -> str:
    step = float(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    if abs(value) < step * 1e-6:
        return "0"
    if abs(value) >= 1e5 or step < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = next(d for d in range(6) if abs(step * 10**d - round(step * 10**d)) < 1e-6)
    text = f"{value:.{decimals}f}"
    return text.replace("-", "\u2212")


def _short(value: float) -> str:
    return f"{value:.4g}"
