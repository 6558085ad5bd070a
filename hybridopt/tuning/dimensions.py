"""One searched option: the values it may take, how the unit interval maps onto them, and where its edges are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hybridopt.core import ConfigError

EDGE = 0.1
"""Share of a range, at either end, in which a best value counts as being on the edge."""

_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether equal ratios are equally likely, rather than equal differences.
        integer: Whether values are whole numbers.
        least: No value below this is allowed, however the range is chosen.
        most: No value above this is allowed.
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False
    least: float = -math.inf
    most: float = math.inf

    def at(self, u: float) -> float | int:
        """Returns the value at a place of the unit interval; four significant digits are kept.

        Args:
            u: From 0 (`low`) to 1 (`high`).
        """
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        value = round(value) if self.integer else float(f"{value:.{_DIGITS}g}")
        value = min(max(value, self.low), self.high)
        return int(value) if self.integer else value

    def place(self, value: float) -> float:
        """Returns where a value lies: 0 at `low`, 1 at `high`, beyond them outside; the inverse of `at`."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        if value <= 0:
            return -math.inf
        return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    def grid(self, points: int) -> list[Any]:
        """Returns that many evenly spread values, both ends among them; fewer where whole numbers coincide."""
        places = [0.5] if points == 1 else [number / (points - 1) for number in range(points)]
        return list(dict.fromkeys(self.at(place) for place in places))

    def edge(self, value: Any) -> str | None:
        """Tells whether a value lies in the outermost tenth of the range and the range could go on there.

        Args:
            value: A value; one outside the range, such as a default, is on no edge.

        Returns:
            "lower", "upper" or None.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        place = self.place(value)
        if 0 <= place <= EDGE and self.low > self.least:
            return "lower"
        if 1 - EDGE <= place <= 1 and self.high < self.most:
            return "upper"
        return None

    def around(self, value: float) -> str:
        """Returns what ``--space`` takes for a range of the same width with a value in its middle."""
        if self.log:
            half = math.sqrt(self.high / self.low)
            low, high = value / half, value * half
        else:
            half = (self.high - self.low) / 2
            low, high = value - half, value + half
        low, high = max(low, self.least), min(high, self.most)
        if self.integer:
            low, high = round(low), max(round(high), round(low) + 1)
        return f"{'log' if self.log else 'uniform'}:{low:.3g}:{high:.3g}"

    def __str__(self) -> str:
        return f"{'log' if self.log else 'uniform'}:{self.low:g}:{self.high:g}"


@dataclasses.dataclass(frozen=True)
class Choices:
    """A few values.

    Attributes:
        values: The values, in the order given.
        least: No value below this is allowed, if they are numbers.
        most: No value above this is allowed, if they are numbers.
    """

    values: tuple[Any, ...]
    least: float = -math.inf
    most: float = math.inf

    def at(self, u: float) -> Any:
        """Returns the value at a place of the unit interval.

        Args:
            u: From 0 to 1.
        """
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def grid(self, points: int) -> list[Any]:
        """Returns all values, however many points are wanted."""
        return list(self.values)

    def edge(self, value: Any) -> str | None:
        """Tells whether a value is the smallest or the largest of three numbers or more; see `Range.edge`."""
        numbers = [one for one in self.values if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < 3 or len(numbers) < len(self.values) or value not in numbers:
            return None
        if value == min(numbers) and value > self.least:
            return "lower"
        if value == max(numbers) and value < self.most:
            return "upper"
        return None

    def around(self, value: float) -> str:
        """Returns what ``--space`` takes for the same values and one more beyond the edge that a value lies on."""
        numbers = sorted(self.values)
        if value == numbers[0]:
            ratio = numbers[1] / value if value > 0 else 0.0
            further = value / ratio if ratio else value - (numbers[1] - value)
        else:
            ratio = value / numbers[-2] if numbers[-2] > 0 else 0.0
            further = value * ratio if ratio else value + (value - numbers[-2])
        if all(isinstance(number, int) for number in numbers):
            further = round(further)
        further = min(max(further, self.least), self.most)
        return ",".join(f"{number:.6g}" for number in sorted({*numbers, further}))

    def __str__(self) -> str:
        return ",".join("null" if value is None else str(value).lower() for value in self.values)


Dimension = Range | Choices


def declared(
    search: Any, *, integer: bool, bounds: Mapping[str, float], options: Sequence[Any] | None, label: str
) -> Dimension:
    """Returns the dimension that an option's declaration stands for.

    Args:
        search: As in `hybridopt.core.option`: ("log", low, high), ("uniform", low, high) or a list of values.
        integer: Whether the option is a whole number.
        bounds: The option's own limits under "ge", "gt", "le" and "lt".
        options: The option's allowed values, if it has few.
        label: Name of the option, for the error message.

    Raises:
        ConfigError: If the declaration is none of those, empty, or outside the option's limits.
    """
    least = max(bounds.get("ge", -math.inf), bounds.get("gt", -math.inf))
    most = min(bounds.get("le", math.inf), bounds.get("lt", math.inf))
    if isinstance(search, tuple) and len(search) == 3 and search[0] in ("log", "uniform"):
        kind, low, high = search
        numbers = all(isinstance(one, int | float) and math.isfinite(one) for one in (low, high))
        if not numbers or not low < high or (kind == "log" and low <= 0):
            above = "0 < LOW < HIGH" if kind == "log" else "LOW < HIGH"
            raise ConfigError(f"The search space {kind}:{low}:{high} of {label} needs finite numbers with {above}.")
        if low < least or high > most:
            raise ConfigError(
                f"The search space {kind}:{low:g}:{high:g} of {label} leaves the option's own limits, {least:g} to "
                f"{most:g}. Choose LOW and HIGH within them."
            )
        if integer and not (float(low).is_integer() and float(high).is_integer()):
            raise ConfigError(f"{label} is a whole number: its search space {kind}:{low:g}:{high:g} needs whole ends.")
        return Range(low, high, log=kind == "log", integer=integer, least=least, most=most)
    if isinstance(search, str) or not isinstance(search, Sequence) or not search:
        raise ConfigError(f"The search space of {label} must be log, uniform or a list of values, not {search!r}.")
    for value in search:
        if options is not None and value not in options:
            known = ", ".join(map(repr, options))
            raise ConfigError(f"{value!r} in the search space of {label} is none of its values: {known}.")
        if isinstance(value, int | float) and not isinstance(value, bool) and not least <= value <= most:
            raise ConfigError(f"{value!r} in the search space of {label} leaves its limits, {least:g} to {most:g}.")
    return Choices(tuple(dict.fromkeys(search)), least=least, most=most)
