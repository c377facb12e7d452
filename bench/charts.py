"""Charts as inline SVG.  Pure: numbers in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Final

COLOURS: Final = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
WIDTH: Final = 640
HEIGHT: Final = 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 40
_TICKS: Final = 5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it says, how far it goes, and where a value is on it (0 to 1)."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    place: Callable[[float], float]


def linear(label: str, highest: float) -> Axis:
    """Return an axis from 0 to at least `highest`, with round ticks."""
    step = round_step((highest or 1.0) / _TICKS)
    end = step * max(1, -(-(highest or 1.0) // step))
    ticks = tuple((step * number, number_text(step * number)) for number in range(round(end / step) + 1))
    return Axis(label, ticks, lambda value: value / end)


def percentiles(label: str) -> Axis:
    """Return an axis on which 90, 99, 99.9 … are evenly spread, as latencies want it."""
    nines = (0.0, 90.0, 99.0, 99.9, 99.99, 99.999)

    def place(percent: float) -> float:
        return min(1.0, -log10(max(1e-5, 1 - percent / 100)) / 5)

    return Axis(label, tuple((percent, f"{percent:g}") for percent in nines), place)


def round_step(step: float) -> float:
    """Return the next of 1, 2, 5, 10, 20 … that is not under `step`."""
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def number_text(value: float) -> str:
    """Return a number short enough for a tick."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def lines(series: Mapping[str, Sequence[Point]], x: Axis, y: Axis) -> str:
    """Return a line chart with a legend."""
    parts = [*_frame(x, y)]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(x, px):.1f},{_y(y, py):.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(_legend(number, name, colour))
    return _svg(HEIGHT, parts)


def bars(values: Mapping[str, float], texts: Mapping[str, str]) -> str:
    """Return a chart of horizontal bars, each with its name and a text."""
    highest = max(values.values(), default=0.0) or 1.0
    height, left = 26, 130
    parts = []
    for number, (name, value) in enumerate(values.items()):
        y = 6 + number * height
        width = (WIDTH - left - 170) * value / highest
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{height - 6}" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 15}">{escape(texts[name])}</text>')
    return _svg(12 + len(values) * height, parts)


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" width="{WIDTH}">{"".join(parts)}</svg>'


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    for value, text in y.ticks:
        at = _y(y, value)
        yield f'<line x1="{_LEFT}" y1="{at:.1f}" x2="{WIDTH - _RIGHT}" y2="{at:.1f}" class="grid"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
    for value, text in x.ticks:
        at = _x(x, value)
        yield f'<text x="{at:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{text}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>'
    turn = f"translate(12 {(HEIGHT - _BOTTOM + _TOP) / 2}) rotate(-90)"
    yield f'<text transform="{turn}" text-anchor="middle">{escape(y.label)}</text>'


def _legend(number: int, name: str, colour: str) -> str:
    y = _TOP + 12 + 16 * number
    return (
        f'<rect x="{_LEFT + 8}" y="{y - 8}" width="12" height="4" fill="{colour}"/>'
        f'<text x="{_LEFT + 26}" y="{y - 2}">{escape(name)}</text>'
    )
