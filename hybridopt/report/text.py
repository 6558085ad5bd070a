"""Numbers as a reader wants them; what is not known is a dash."""

from __future__ import annotations

import math
from typing import Any

DASH = "–"


def number(value: Any, digits: int = 3) -> str:
    """Returns a number with a few significant digits, a dash for None and NaN, a sign for infinity.

    Args:
        value: A number, or None.
        digits: Significant digits.

    Example:
        >>> number(0.0123456), number(1234.5), number(12.0), number(None), number(3e-9)
        ('0.0123', '1,234', '12.0', '–', '3e-09')
    """
    if value is None or isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if isinstance(value, int):
        return f"{value:,}"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - 1 - size)
    return f"{value:,.{decimals}f}"


def count(value: Any) -> str:
    """Returns a count without decimals, a dash if there is none.

    Args:
        value: A number, or None.
    """
    if value is None or not isinstance(value, int | float) or not math.isfinite(value):
        return DASH
    return f"{round(value):,}"


def metric(name: str) -> str:
    """Returns a metric's key as words: "validation_accuracy" is "validation accuracy".

    Args:
        name: Key of an evaluation row.
    """
    return name.replace("_", " ")


def plural(amount: int, noun: str) -> str:
    """Returns "1 run", "2 runs".

    Args:
        amount: How many.
        noun: The singular.
    """
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def one_line(text: Any, limit: int = 300) -> str:
    """Returns a text on one line, cut if it is long; a dash if it is empty.

    Args:
        text: A message.
        limit: Characters that are kept.
    """
    joined = " ".join(str(text or "").split())
    if not joined:
        return DASH
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
