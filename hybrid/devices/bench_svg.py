"""How do a bench's figures look as drawings? Inline SVG, its colours from the page's style sheet; pure text out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

SMALL, LARGE = (500, 320), (1000, 460)
"""Width and height of a drawing that has half the page, and of one that has all of it."""
LEFT, RIGHT, TOP, BOTTOM = 68, 20, 16, 50
COLOURS = 6
"""Series beyond so many share colours; the style sheet has as many."""


@dataclass(frozen=True, slots=True)
class Point:
    """A measured value with its extremes, and what is written beside it."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name; `colour` counts from 0. is_hollow: drawn as rings, to tell two kinds of one model apart."""

    name: str
    points: Sequence[Point]
    colour: int
    is_hollow: bool = False
    is_joined: bool = True


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A roof: y = min(slope * x, height); either may be missing."""

    label: str
    slope: float | None = None
    height: float | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a drawing: its range, the values that have a line, and where it begins and ends, in pixels."""

    low: float
    high: float
    ticks: Sequence[float]
    is_log: bool
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Place a value, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> str:
    """Draw lines over a logarithmic x and a linear y that begins at zero; whiskers are the extremes seen."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    xs = sorted({point.x for point in points})
    x_axis = _across(xs[0] / 1.25, xs[-1] * 1.25, xs, SMALL)
    top, step = _nice(max(point.high for point in points))
    y_axis = _up(0.0, top, [step * number for number in range(round(top / step) + 1)], SMALL, is_log=False)
    parts = [*_frame(x_axis, y_axis, x_label, y_label, plain), *(_series(one, x_axis, y_axis) for one in series)]
    return _svg(title, parts, SMALL)


def roofline(series: Sequence[Series], ceilings: Sequence[Ceiling], *, title: str, x_label: str, y_label: str) -> str:
    """Draw roofs and points on logarithmic scales, a decade a line."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    heights = [ceiling.height for ceiling in ceilings if ceiling.height]
    slopes = [ceiling.slope for ceiling in ceilings if ceiling.slope]
    ridges = [height / slope for height in heights for slope in slopes]
    x_axis = _across(*_decades([point.x for point in points] + ridges), LARGE)
    y_axis = _up(*_decades([*(point.low for point in points), *heights]), LARGE, is_log=True)
    parts = [*_frame(x_axis, y_axis, x_label, y_label, si)]
    parts += [_ceiling(ceiling, x_axis, y_axis, max(slopes, default=0.0)) for ceiling in ceilings]
    parts += [_series(one, x_axis, y_axis) for one in series]
    return _svg(title, parts, LARGE)


def _svg(title: str, parts: Sequence[str], size: tuple[int, int]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title, quote=True)}">\n'
        f"<title>{escape(title)}</title>\n{inside}\n</svg>"
    )


def _across(low: float, high: float, ticks: Sequence[float], size: tuple[int, int]) -> Axis:
    return Axis(low, high, ticks, is_log=True, begin=LEFT, end=size[0] - RIGHT)


def _up(low: float, high: float, ticks: Sequence[float], size: tuple[int, int], *, is_log: bool) -> Axis:
    return Axis(low, high, ticks, is_log=is_log, begin=size[1] - BOTTOM, end=TOP)


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, written: Callable[[float], str]) -> list[str]:
    right, bottom = x_axis.end, y_axis.begin
    parts = []
    for tick in y_axis.ticks:
        at = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{written(tick)}</text>')
    for tick in x_axis.ticks:
        at = x_axis.at(tick)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at}" y="{bottom + 18}" text-anchor="middle">{plain(tick)}</text>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text class="axis" x="{middle_x}" y="{bottom + 42}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text class="axis" transform="translate(16 {middle_y}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return parts


def _series(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    kind = f"s{series.colour % COLOURS}"
    parts = [f'<g class="{kind}{" hollow" if series.is_hollow else ""}">']
    if series.is_joined and len(series.points) > 1:
        path = " ".join(f"{x_axis.at(point.x)},{y_axis.at(point.y)}" for point in series.points)
        parts.append(f'<polyline class="line" points="{path}"/>')
    for point in series.points:
        x, y = x_axis.at(point.x), y_axis.at(point.y)
        low, high = y_axis.at(max(point.low, y_axis.low)), y_axis.at(min(point.high, y_axis.high))
        parts.append(f'<line class="whisker" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>')
        tip = f"{series.name}: {point.label or plain(point.x)}, {si(point.y)} ({si(point.low)} to {si(point.high)})"
        parts.append(f'<circle cx="{x}" cy="{y}" r="4.5"><title>{escape(tip)}</title></circle>')
        if point.label:
            parts.append(f'<text class="label" x="{x + 8}" y="{y + 13}">{escape(point.label)}</text>')
    return "\n".join([*parts, "</g>"])


def _ceiling(ceiling: Ceiling, x_axis: Axis, y_axis: Axis, steepest: float) -> str:
    """A slope from the left edge up to the top one, or a level from where the slope meets it to the right edge."""
    if ceiling.slope is not None:
        start_x = max(x_axis.low, y_axis.low / ceiling.slope)
        end_x = min(x_axis.high, y_axis.high / ceiling.slope)
        start, end = (start_x, ceiling.slope * start_x), (end_x, ceiling.slope * end_x)
    else:
        height = ceiling.height or y_axis.high
        ridge = height / steepest if steepest else x_axis.low
        start, end = (min(max(ridge, x_axis.low), x_axis.high), height), (x_axis.high, height)
    x1, y1, x2, y2 = x_axis.at(start[0]), y_axis.at(start[1]), x_axis.at(end[0]), y_axis.at(end[1])
    line = f'<line class="roof" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
    if ceiling.slope is None:
        return f'{line}<text class="label" x="{x2 - 4}" y="{y2 - 6}" text-anchor="end">{escape(ceiling.label)}</text>'
    angle = round(math.degrees(math.atan2(y2 - y1, x2 - x1)), 1)
    at_x, at_y = x1 + 0.42 * (x2 - x1), y1 + 0.42 * (y2 - y1)
    return (
        f'{line}<text class="label" transform="translate({at_x:.1f} {at_y - 8:.1f}) rotate({angle})" '
        f'text-anchor="middle">{escape(ceiling.label)}</text>'
    )


def _decades(values: Sequence[float]) -> tuple[float, float, list[float]]:
    low = math.floor(math.log10(min(values)) - 0.15)
    high = math.ceil(math.log10(max(values)) + 0.15)
    return 10.0**low, 10.0**high, [10.0**number for number in range(low, high + 1)]


def _nice(highest: float) -> tuple[float, float]:
    """The top of an axis and the distance of its lines: 1, 2 or 5 times a power of ten, four to eight of them."""
    power = 10.0 ** math.floor(math.log10(highest / 4)) if highest > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if highest / (power * factor) <= 7)
    return math.ceil(highest * 1.02 / step) * step, step


def plain(value: float) -> str:
    """A number without a needless fraction, its thousands apart."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def si(value: float) -> str:
    """A number with k, M, G, T, P; three digits."""
    if value == 0:
        return "0"
    power = min(max(int(math.log10(abs(value)) // 3), 0), 5)
    return f"{value / 1000**power:.3g}{('', ' k', ' M', ' G', ' T', ' P')[power]}"
