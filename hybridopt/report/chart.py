"""Draws learning curves as SVG, with classes for everything that the page's style and script work on."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence

from hybridopt.report.curves import Line, Marker
from hybridopt.report.scales import Scale, fit
from hybridopt.report.text import number

WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 16, 46

_SHAPES = {
    "switch": "M0 -6L6 0L0 6L-6 0Z",
    "escape": "M0 -6.5L6 4.5L-6 4.5Z",
    "event": "M0 -3A3 3 0 1 1 0 3A3 3 0 1 1 0 -3Z",
    "diverged": "M-5 -5L5 5M-5 5L5 -5",
}


@dataclasses.dataclass(frozen=True)
class Guide:
    """A horizontal line: a target, or the trivial predictor's loss.

    Attributes:
        value: Where.
        label: What it says.
        kind: "target" or "trivial".
    """

    value: float
    label: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        svg: The element.
        x: Its horizontal axis.
        y: Its vertical axis.
    """

    svg: str
    x: Scale
    y: Scale


def draw(
    lines: Sequence[Line],
    *,
    x_title: str,
    description: str,
    guides: Sequence[Guide] = (),
    x_log: bool = False,
    y_log: bool = False,
    ceiling: float | None = None,
    floor: float | None = None,
    span: Sequence[float] = (),
) -> Chart | None:
    """Draws lines, bands, events and guides.

    Args:
        lines: The lines, the most important first (it is drawn last, on top).
        x_title: Title of the horizontal axis.
        description: What the chart shows, for readers that cannot see it.
        guides: Horizontal lines; they widen the axis if need be.
        x_log: Logarithmic horizontal axis; points at 0 are left out.
        y_log: Logarithmic vertical axis.
        ceiling: Largest value that the vertical axis has to hold: lines above it leave the chart.
        floor: Smallest value that it has to hold.
        span: Values that the vertical axis has to hold besides.

    Returns:
        The chart, None if there is nothing to draw.
    """
    x = fit((value for line in lines for value in line.x), LEFT, WIDTH - RIGHT, x_log)
    tall = [value for line in lines for value in (*line.y, *line.low, *line.high)]
    tall = [value for value in tall if math.isfinite(value)]
    if ceiling is not None:
        tall = [min(value, ceiling) for value in tall]
    if floor is not None:
        tall = [max(value, floor) for value in tall]
    y = fit([*tall, *span, *(guide.value for guide in guides)], HEIGHT - BOTTOM, TOP, y_log, pad=True)
    if x is None or y is None or not tall:
        return None
    guides = [guide for guide in guides if y.holds(guide.value)]
    body = [*_axes(x, y, x_title), *(_guide(guide, y) for guide in guides)]
    body.append(
        f'<svg x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" '
        f'viewBox="{LEFT} {TOP} {WIDTH - LEFT - RIGHT} {HEIGHT - TOP - BOTTOM}">'
    )
    for line in reversed(lines):
        body.append(_line(line, x, y))
    body.append("</svg>")
    for line in reversed(lines):
        body.extend(_marks(line, x, y))
    body.extend(_guide_text(guide, y) for guide in guides)
    svg = (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(description, quote=True)}">{"".join(body)}</svg>'
    )
    return Chart(svg, x, y)


def style_class(index: int | None) -> str:
    """Returns the class that gives a line its colour and dash pattern, and lets the legend hide it.

    Args:
        index: See `Line.index`.
    """
    return "rest" if index is None else f"s{index}"


def _axes(x: Scale, y: Scale, x_title: str) -> list[str]:
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = []
    for value, text in y.ticks():
        place = f"{y(value):.1f}"
        parts.append(f'<path class="grid" d="M{left} {place}H{right}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{place}" dy=".33em" text-anchor="end">{text}</text>')
    for value, text in x.ticks():
        place = f"{x(value):.1f}"
        parts.append(f'<path class="grid faint" d="M{place} {top}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{place}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    middle = (left + right) / 2
    title = html.escape(x_title)
    parts.append(f'<text class="title" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{title}</text>')
    return parts


def _guide(guide: Guide, y: Scale) -> str:
    return f'<path class="guide {guide.kind}" d="M{LEFT} {y(guide.value):.1f}H{WIDTH - RIGHT}"/>'


def _guide_text(guide: Guide, y: Scale) -> str:
    place = y(guide.value)
    above = place - 5 if place > TOP + 18 else place + 14
    # Lines start near the trivial predictor at the left and end near a target at the right.
    across, anchor = (LEFT + 6, "start") if guide.kind == "target" else (WIDTH - RIGHT - 4, "end")
    return (
        f'<text class="guide {guide.kind}" x="{across}" y="{above:.1f}" text-anchor="{anchor}">'
        f"{html.escape(guide.label)} {number(guide.value)}</text>"
    )


def _line(line: Line, x: Scale, y: Scale) -> str:
    parts = [f'<g class="series {style_class(line.index)}">']
    if line.low:
        edge = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
        band = _path(edge, x, y, infinite=True)
        if band:
            parts.append(f'<path class="band" d="{band}Z"/>')
    parts.append(f'<path class="line" d="{_path([*zip(line.x, line.y, strict=True)], x, y)}"/></g>')
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale, *, infinite: bool = False) -> str:
    """Path data; a line is broken at values that cannot be drawn, a band goes to the edge there."""
    steps: list[str] = []
    pen = "M"
    for across, up in points:
        drawable = not math.isnan(up) and (infinite or math.isfinite(up)) and (up > 0 or not y.log)
        if not drawable or (x.log and across <= 0):
            pen = "L" if infinite and steps else "M"
            continue
        high = y(up) if math.isfinite(up) else (TOP - 50 if up > 0 else HEIGHT)
        steps.append(f"{pen}{x(across):.1f} {high:.1f}")
        pen = "L"
    return "".join(steps)


def _marks(line: Line, x: Scale, y: Scale) -> list[str]:
    ends = [(a, b) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    inside = [point for point in ends if _visible(*point, x, y)]
    shown = []
    for marker in line.markers:
        if marker.kind == "diverged" and inside:  # where the line leaves the chart
            marker = dataclasses.replace(marker, x=inside[-1][0], y=inside[-1][1])
        if _visible(marker.x, marker.y, x, y):
            shown.append(marker)
    parts = []
    if ends and _visible(*ends[-1], x, y):
        parts.append(f'<circle class="end" cx="{x(ends[-1][0]):.1f}" cy="{y(ends[-1][1]):.1f}" r="2.6"/>')
    parts.extend(_mark(marker, line, x, y) for marker in shown)
    return [f'<g class="series {style_class(line.index)}">{"".join(parts)}</g>'] if parts else []


def _mark(marker: Marker, line: Line, x: Scale, y: Scale) -> str:
    title = html.escape(f"{line.label}: {marker.title}")
    return (
        f'<path class="mark {marker.kind}" transform="translate({x(marker.x):.1f} {y(marker.y):.1f})" '
        f'd="{_SHAPES[marker.kind]}"><title>{title}</title></path>'
    )


def _visible(across: float, up: float, x: Scale, y: Scale) -> bool:
    return x.holds(across) and y.holds(up) and (across > 0 or not x.log)
