"""Learning curves as they are drawn: one line a setting, with a band when it has several seeds."""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from hybridopt.results import AXES, Curve, Run

POINTS = 120
"""Points of a drawn line at most; more would not be seen."""

MARKERS = 24
"""Events drawn on one line at most."""


@dataclasses.dataclass(frozen=True)
class Marker:
    """Something that happened on a line.

    Attributes:
        x: Where.
        y: The line's value there.
        kind: "switch", "escape", "target", "diverged" or "event".
        title: What it says when pointed at.
    """

    x: float
    y: float
    kind: str
    title: str


@dataclasses.dataclass(frozen=True)
class Line:
    """One setting's line.

    Attributes:
        index: Number of the setting's colour and dash pattern; None for a grey line without a legend entry.
        label: Name of the setting.
        x: Positions.
        y: Values, the median over seeds if there are several.
        low: Lower edge of the band, empty without a band.
        high: Upper edge of the band.
        markers: Events.
    """

    index: int | None
    label: str
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    markers: list[Marker]


def line_of(runs: Sequence[Run], axis: str, metric: str, mode: str, *, index: int | None, label: str) -> Line | None:
    """Returns the line of one setting, None if it has no values.

    One run is drawn as it is. Several give the median and a band: from the lowest to the highest of up to
    three seeds, the middle half of more. A diverged run counts as infinitely bad from its end on; the line
    ends where fewer than half of the runs have values.

    Args:
        runs: The runs of one setting.
        axis: Axis name of `hybridopt.results.AXES`.
        metric: "loss" or a key of evaluation rows.
        mode: "min" or "max": which values are good.
        index: See `Line`.
        label: See `Line`.
    """
    curves = [(run, run.curve(axis, metric)) for run in runs]
    curves = [(run, curve) for run, curve in curves if len(curve)]
    if not curves:
        return None
    if len(curves) == 1:
        run, curve = curves[0]
        x, y = thin(curve.x, curve.y)
        return Line(index, label, x, y, [], [], _markers([(run, curve)], curve.x, curve.y, axis))
    grid = _grid([curve for _, curve in curves])
    worst = math.inf if mode == "min" else -math.inf
    columns = [_resample(curve, grid, worst, run.state == "diverged") for run, curve in curves]
    x, y, low, high = [], [], [], []
    for position, values in zip(grid, zip(*columns, strict=True), strict=True):
        known = sorted(value for value in values if value is not None)
        if 2 * len(known) < len(curves):
            break
        x.append(position)
        y.append(statistics.median(known))
        edge = 0 if len(known) <= 3 else (len(known) - 1) // 4
        low.append(known[edge])
        high.append(known[-1 - edge])
    return Line(index, label, x, y, low, high, _markers(curves, x, y, axis))


def thin(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """Returns at most about `points` points of a curve: even in x and in log x, with both ends.

    Args:
        x: Positions, not decreasing.
        y: Values.
        points: How many to keep.
    """
    count = len(x)
    if count <= points:
        return list(x), list(y)
    low, high = x[0], x[-1]
    positive = next((value for value in x if value > 0), 1.0)
    kept = {0, count - 1}
    for part in range(points // 2):
        share = part / (points // 2)
        kept.add(min(count - 1, bisect.bisect_left(x, low + share * (high - low))))
        kept.add(min(count - 1, bisect.bisect_left(x, positive * (max(high, positive) / positive) ** share)))
    order = sorted(kept)
    return [x[place] for place in order], [y[place] for place in order]


def marker_kind(event: str) -> str:
    """Returns how an event is drawn: "switch", "escape" or "event".

    Args:
        event: The event's name.
    """
    if "switch" in event:
        return "switch"
    return "escape" if event in ("escape", "escaped", "escape_jump") else "event"


def _grid(curves: Sequence[Curve]) -> list[float]:
    """Positions at which several curves are compared: all of theirs, thinned."""
    merged = sorted({position for curve in curves for position in curve.x})
    return thin(merged, merged)[0]


def _resample(
    curve: Curve, grid: Sequence[float], worst: float = math.inf, diverged: bool = False
) -> list[float | None]:
    """Values at the grid, linear between points; None outside, `worst` where the run has diverged."""
    values: list[float | None] = []
    for position in grid:
        place = bisect.bisect_right(curve.x, position)
        if place == 0:
            values.append(None)
        elif place == len(curve.x):
            here = position == curve.x[-1]
            values.append(curve.y[-1] if here else (worst if diverged else None))
        else:
            x0, x1, y0, y1 = curve.x[place - 1], curve.x[place], curve.y[place - 1], curve.y[place]
            values.append(y0 if x1 == x0 else y0 + (y1 - y0) * (position - x0) / (x1 - x0))
    return [worst if value is not None and math.isnan(value) else value for value in values]


def _markers(curves: Sequence[tuple[Run, Curve]], x: Sequence[float], y: Sequence[float], axis: str) -> list[Marker]:
    """The events of the runs, placed on the line that is drawn for them."""
    line = Curve(list(x), list(y), axis, "")
    found: list[Marker] = []
    for run, curve in curves:
        for event in run.events:
            found.extend(_marker(event, line, axis))
        if run.state == "diverged" and len(curves) == 1:
            last = [(a, b) for a, b in zip(curve.x, curve.y, strict=True) if math.isfinite(b)]
            if last:
                found.append(Marker(*last[-1], "diverged", "diverged"))
    if len(found) > MARKERS:
        # Switches and escapes tell more than the rest; of too many, evenly spaced ones remain.
        found.sort(key=lambda marker: (marker.kind == "event", marker.x))
        telling = [marker for marker in found if marker.kind != "event"] or found
        found = [telling[place * len(telling) // MARKERS] for place in range(min(MARKERS, len(telling)))]
    return found


def _marker(event: dict[str, Any], line: Curve, axis: str) -> list[Marker]:
    position, name = event.get(AXES[axis]), str(event.get("event", "event"))
    if not isinstance(position, int | float) or name == "target":
        return []
    value = _resample(line, [min(float(position), line.x[-1])])[0]
    if value is None or not math.isfinite(value):
        return []
    place = {"type", "event", *AXES.values()}
    details = ", ".join(
        f"{key} {text:.4g}" if isinstance(text, float) else f"{key} {text}"
        for key, text in event.items()
        if key not in place and isinstance(text, str | int | float)
    )
    return [Marker(float(position), value, marker_kind(name), f"{name}: {details}" if details else name)]
