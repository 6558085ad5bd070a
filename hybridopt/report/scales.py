"""Axes: from values to positions, and where the ticks are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from hybridopt.report.text import number

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis.

    Attributes:
        low: Value at the axis's start; above 0 on a logarithmic axis.
        high: Value at its end, above `low`.
        start: Position of `low`.
        stop: Position of `high`.
        log: Whether it is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        """Returns the position of a value; far outside it is cut, so that no position is absurdly large."""
        if self.log:
            if value <= 0:
                return self.start
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(4.0, max(-3.0, share)) * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Tells whether a value lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self) -> list[tuple[float, str]]:
        """Returns values and texts of some five round ticks."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def fit(values: Iterable[float], start: float, stop: float, log: bool, *, pad: bool = False) -> Scale | None:
    """Returns an axis that holds all finite values, None if it would hold nothing.

    Args:
        values: The values; those that are not finite, or not positive on a logarithmic axis, are left out.
        start: Position of the smallest.
        stop: Position of the largest.
        log: Whether the axis is logarithmic.
        pad: Leave a little room at both ends.
    """
    kept = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not kept:
        return None
    low, high = min(kept), max(kept)
    if log:
        if high / low < 1.05:
            low, high = low / 1.5, high * 1.5
        if pad:
            room = (high / low) ** 0.04
            low, high = low / room, high * room
    else:
        if high - low < 1e-9 * max(abs(high), abs(low), 1e-30):
            room = 0.5 * abs(high) or 0.5
            low, high = low - room, high + room
        if pad:
            room = 0.04 * (high - low)
            low, high = low - room, high + room
    return Scale(low, high, start, stop, log)


def _linear_ticks(low: float, high: float, wanted: int = 5) -> list[tuple[float, str]]:
    raw = (high - low) / wanted
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if 2.4 < step / size < 2.6 else 0))
    return [(index * step, _tick_text(index * step, decimals)) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    decades = last - first + 1
    if decades >= 3:
        every = math.ceil(decades / 6)
        return [(10.0**power, _power_text(power)) for power in range(first, last + 1) if power % every == 0]
    factors = (1, 3) if decades == 2 else (1, 2, 5)
    ticks = [
        (factor * 10.0**power, number(factor * 10.0**power, 1))
        for power in range(first - 1, last + 1)
        for factor in factors
        if low <= factor * 10.0**power <= high * (1 + 1e-9)
    ]
    return ticks if len(ticks) >= 2 else _linear_ticks(low, high, 4)


def _tick_text(value: float, decimals: int) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-4:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    if abs(value) >= 1e4:
        return f"{value / 1000:g}k"
    return f"{value:.{decimals}f}"


def _power_text(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(_SUPERSCRIPT)
