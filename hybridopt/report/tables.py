"""Tables in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from hybridopt.report.figures import Palette
from hybridopt.report.text import DASH

Cell = tuple[str, str]


def table(heads: Sequence[Cell], rows: Sequence[Sequence[Cell]], row_classes: Sequence[str] = ()) -> str:
    """Returns a table that scrolls sideways when it is too wide.

    Args:
        heads: Class and text of every column's title.
        rows: Cells: class, with an optional style behind a "|", and HTML.
        row_classes: Class of every row.
    """
    head = "".join(f'<th class="{kind}">{html.escape(text)}</th>' for kind, text in heads)
    body = []
    for number_, cells in enumerate(rows):
        kind = f' class="{row_classes[number_]}"' if row_classes else ""
        body.append(f"<tr{kind}>{''.join(map(_cell, cells))}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def method(label: str, palette: Palette, below: str = "", look: str | None = None) -> str:
    """Returns a method's name with its line's look in front; long names may break behind an underscore.

    Args:
        label: Name of the setting.
        palette: Looks of the lines.
        below: A second, smaller line.
        look: Name of the setting whose line is shown; None: `label`.
    """
    name = html.escape(label).replace("_", "_<wbr>")
    small = f"<small>{html.escape(below)}</small>" if below else ""
    return f'<div class="method">{palette.swatch(look or label)}<div>{name}{small}</div></div>'


def stack(shares: Mapping[str, float] | None, names: Mapping[str, str]) -> str:
    """Returns shares as one bar of coloured parts, a dash if they are not known.

    Args:
        shares: Parts of 1, by kind; the class ``k-<kind>`` has its colour.
        names: What the kinds are called.
    """
    if shares is None:
        return DASH
    text = ", ".join(f"{names[kind]} {100 * share:.0f} %" for kind, share in shares.items() if share >= 0.005)
    parts = "".join(
        f'<i class="k-{kind}" style="width:{100 * share:.1f}%"></i>' for kind, share in shares.items() if share > 0
    )
    return f'<div class="stack" role="img" title="{text}" aria-label="{text}">{parts}</div>'


def _cell(cell: Cell) -> str:
    kind, _, style = cell[0].partition("|")
    attributes = (f' class="{kind}"' if kind else "") + (f' style="{style}"' if style else "")
    return f"<td{attributes}>{cell[1]}</td>"
