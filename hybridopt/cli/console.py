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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Writes a table to standard output.

    Args:
        columns: Headings.
        rows: Cells, as many as headings in each.
        title: Heading of the whole.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # A column without a heading or a cell would only take room.
    shown = [i for i, column in enumerate(columns) if not column or any(row[i] for row in rows)]
    drawn = Table(
        show_header=any(columns),
        box=SIMPLE_HEAD,
        title=None if title is None else Text(title),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for index in shown:
        name = index < 3  # what a row is about stays on one line
        drawn.add_column(Text(columns[index]), overflow="fold", no_wrap=name)
    for row in rows:
        drawn.add_row(*(Text(row[index]) for index in shown))
    rich_console().print(drawn)
