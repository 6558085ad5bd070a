"""Draws figures with matplotlib, for PDF and PNG."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridopt.core.packages import need
from hybridopt.report.chart import Guide
from hybridopt.report.curves import Line
from hybridopt.report.looks import look
from hybridopt.report.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.8, 3.2)
"""Inches of a figure's plot; the legend below it comes on top."""

_MARKS = {"switch": "D", "escape": "^", "event": "o", "diverged": "x"}

_STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,  # text stays text: some journals refuse Type 3 fonts
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dde2e9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.scale_dashes": False,
    "legend.frameon": False,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure, not yet drawn.

    Attributes:
        name: Start of its file's name.
        title: What its vertical axis shows.
        x_title: What its horizontal axis shows.
        lines: The lines, the most important first.
        guides: Horizontal lines.
        x_log: Logarithmic horizontal axis.
        y_log: Logarithmic vertical axis.
        ceiling: See `hybridopt.report.chart.draw`.
        floor: See there.
        span: See there.
    """

    name: str
    title: str
    x_title: str
    lines: list[Line]
    guides: list[Guide] = dataclasses.field(default_factory=list)
    x_log: bool = False
    y_log: bool = False
    ceiling: float | None = None
    floor: float | None = None
    span: tuple[float, ...] = ()


def need_matplotlib() -> None:
    """Says what to install if matplotlib is not there.

    Raises:
        HybridoptError: If it is not.
    """
    owner = "A figure as PDF or PNG"
    need("matplotlib", extra="figures", owner=owner, otherwise="ask for svg, which needs nothing")


def plot(picture: Picture, path: Path) -> None:
    """Writes a figure as PDF or PNG, as the file's name says.

    Args:
        picture: The figure.
        path: The file.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for line in reversed(picture.lines):
            _line(axes, picture, line)
        for guide in picture.guides:
            axes.axhline(guide.value, color="#333", linewidth=0.9, linestyle=(0, (1.5, 3)), zorder=1)
            note = f"{guide.label} {number(guide.value)}"
            axes.annotate(note, (0.01, guide.value), xycoords=("axes fraction", "data"), va="bottom", fontsize=7.5)
        axes.set_xscale("log" if picture.x_log else "linear")
        axes.set_yscale("log" if picture.y_log else "linear")
        _limit(axes, picture)
        across = [value for line in picture.lines for value in line.x if value > 0 or not picture.x_log]
        if across and min(across) < max(across):
            room = (max(across) / min(across)) ** 0.03 if picture.x_log else 0.02 * (max(across) - min(across))
            low, high = min(across), max(across)
            axes.set_xlim(*((low / room, high * room) if picture.x_log else (low - room, high + room)))
        axes.set_xlabel(picture.x_title)
        axes.set_ylabel(picture.title)
        handles, names = axes.get_legend_handles_labels()
        if handles:
            # A line's sample and its gaps take some 46 points, a letter some 4.4 at this size.
            columns = max(1, min(3, int(72 * SIZE[0] / (46 + 4.4 * max(map(len, names))))))
            place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
            figure.legend(handles[::-1], names[::-1], fontsize=8, handlelength=2.6, **place)
        # Without dates and versions the same runs give the same file.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        figure.savefig(path, dpi=200, metadata=metadata, bbox_inches="tight")


def _line(axes: Axes, picture: Picture, line: Line) -> None:
    colour, dash = look(line.index)
    pattern = "solid" if dash == "none" else (0, tuple(float(part) * 0.75 for part in dash.split()))
    rest = line.index is None
    y = [value if math.isfinite(value) else math.nan for value in line.y]
    axes.plot(
        line.x,
        y,
        color=colour,
        linestyle=pattern,
        linewidth=0.7 if rest else 1.5,
        alpha=0.5 if rest else 1.0,
        dash_capstyle="round" if dash.startswith("0.1") else "butt",
        label="_" + line.label if rest else line.label,
    )
    if rest:
        return
    if line.low:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
    for marker in line.markers:
        if marker.y > 0 or not picture.y_log:
            axes.plot([marker.x], [marker.y], _MARKS[marker.kind], color=colour, markersize=4.5, zorder=4)


def _limit(axes: Axes, picture: Picture) -> None:
    """Keeps diverging lines from flattening the others, as on the page."""
    low, high = axes.get_ylim()
    finite = [value for line in picture.lines for value in line.y if math.isfinite(value)]
    if picture.ceiling is not None and finite and max(finite) > picture.ceiling:
        axes.set_ylim(low if picture.y_log or low < picture.ceiling else None, picture.ceiling)
    if picture.floor is not None and finite and min(finite) < picture.floor:
        axes.set_ylim(picture.floor, high)
    if picture.span:
        axes.set_ylim(min(picture.span) - 0.02, max(picture.span) + 0.02)
