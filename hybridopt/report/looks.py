"""What lines look like, on the page and in figures for papers."""

from __future__ import annotations

import functools
import importlib.resources
import re

DASHES = ("none", "8 3", "2.5 2.5", "9 3 2.5 3", "14 4", "5 2.5", "10 2.5 2.5 2.5 2.5 2.5", "0.1 5")
"""Dash patterns of lines, by number; "0.1 5" with round ends are dots."""

COLOURS = 10
"""How many colours page.css has."""


@functools.cache
def asset(name: str) -> str:
    """Returns a file that belongs to the page.

    Args:
        name: "page.css" or "page.js".
    """
    return importlib.resources.files("hybridopt.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def colours() -> tuple[str, ...]:
    """Returns the colours of lines on white, by number, as the page has them."""
    light = asset("page.css").partition("@media")[0]
    return tuple(colour for _, colour in sorted(re.findall(r"--p(\d): (#[0-9a-f]{6})", light)))


def look(index: int | None) -> tuple[str, str]:
    """Returns colour and dash pattern of a line.

    Args:
        index: Number of the line, None for a grey one.
    """
    if index is None:
        return "#9aa7b8", "none"
    return colours()[index % COLOURS], DASHES[index % len(DASHES)]
