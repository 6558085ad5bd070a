"""The one place that writes to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def line(text: str = "") -> None:
    """Writes a line to standard output.

    Args:
        text: Without the line's end.
    """
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def error(text: str) -> None:
    """Writes an error to standard error, as one paragraph.

    Args:
        text: The message; line breaks in it become spaces.
    """
    sys.stdout.flush()
    sys.stderr.write(f"hybridopt: {' '.join(text.split())}\n")
    sys.stderr.flush()


def rich_console() -> Any:
    """Returns a rich console on standard output; wide enough for tables when the output is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, right: str = "") -> None:
    """Writes a table to standard output.

    Args:
        columns: Headings.
        rows: Cells, as many as headings in each.
        title: Heading of the whole.
        right: One character a column, ``>`` for those whose cells are aligned to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, title=None if title is None else Text(title), title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        numeric = right[index : index + 1] == ">"
        drawn.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    rich_console().print(drawn)
