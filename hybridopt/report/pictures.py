"""Figures for papers: what the page draws, one picture a file."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hybridopt.core.errors import ConfigError, suggest
from hybridopt.experiment import jsonio
from hybridopt.report import figures
from hybridopt.report.chart import HEIGHT, WIDTH, draw, style_class
from hybridopt.report.comparison import AXES, compare_profiles
from hybridopt.report.comparison_section import profile_lines
from hybridopt.report.curves import Line
from hybridopt.report.figures import Palette
from hybridopt.report.looks import look
from hybridopt.report.plots import Picture, need_matplotlib, plot
from hybridopt.report.ranking import ranking_table, shown_metrics, timed_alone
from hybridopt.report.sensitivity_section import rate_lines
from hybridopt.results import Results

FORMATS = ("svg", "pdf", "png")
"""File formats of figures; all but svg need matplotlib (the extra "figures")."""

HEAD = 24
ROW = 20


def check_formats(text: str) -> list[str]:
    """Returns the formats named in a text such as "svg,pdf".

    Args:
        text: Names, with commas between.

    Raises:
        ConfigError: If a name is unknown, or there is none.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(
                f"Figures cannot be written as {name!r}.{suggest(name, FORMATS)} Known: {', '.join(FORMATS)}."
            )
    if not names:
        raise ConfigError(f"No figure format is given: name some of {', '.join(FORMATS)}, with commas between.")
    return list(dict.fromkeys(names))


def pictures(results: Results) -> list[Picture]:
    """Returns the figures of a report: learning curves, traces, learning rates of every task, and the profiles.

    Figures against seconds are there only where every run had its machine alone.

    Args:
        results: All runs.
    """
    palette = Palette(results)
    found = []
    for axis, title in AXES.items():
        comparison = compare_profiles(results, axis)
        if comparison is not None:
            lines = profile_lines(comparison, palette)
            across = f"{title} to target, over the best method's"
            found.append(Picture(f"profiles-{axis}", "Share of problems solved", across, lines, span=(0.0, 1.0)))
    for task in results.tasks:
        found.extend(_task_pictures(results.select(task=task), task, palette))
    return found


def write_pictures(results: Results, directory: str | os.PathLike[str], formats: Sequence[str]) -> list[Path]:
    """Writes all figures of a report, each in every format, and returns the files.

    Args:
        results: All runs.
        directory: Where to; made if need be.
        formats: Some of `FORMATS`.

    Raises:
        HybridoptError: If a format needs matplotlib and it is not installed.
        StoreError: If a file cannot be written.
    """
    if any(name != "svg" for name in formats):
        need_matplotlib()
    target = Path(directory)
    with jsonio.writing(target):
        target.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in pictures(results):
        for name in formats:
            path = target / f"{picture.name}.{name}"
            if name == "svg":
                text = standalone_svg(picture)
                if text is None:
                    continue
                jsonio.write_atomic(path, text)
            else:
                with jsonio.writing(path):
                    plot(picture, path)
            written.append(path)
    return written


def standalone_svg(picture: Picture) -> str | None:
    """Returns a figure as an SVG document with its own style and legend, None if there is nothing to draw.

    Args:
        picture: The figure.
    """
    chart = draw(
        picture.lines,
        x_title=picture.x_title,
        description=picture.title,
        guides=picture.guides,
        x_log=picture.x_log,
        y_log=picture.y_log,
        ceiling=picture.ceiling,
        floor=picture.floor,
        span=picture.span,
    )
    if chart is None:
        return None
    entries, rows = _legend([line for line in picture.lines if line.index is not None])
    height = HEAD + HEIGHT + ROW * rows + 8
    inner = chart.svg.replace(
        '<svg class="plot" ', f'<svg class="plot" x="0" y="{HEAD}" width="{WIDTH}" height="{HEIGHT}" ', 1
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f"<style>{_style(picture.lines)}</style>"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text class="caption" x="8" y="17">{html.escape(picture.title)}</text>'
        f"{inner}{entries}</svg>\n"
    )


def _style(lines: Sequence[Line]) -> str:
    rules = [
        "text{font-family:Helvetica,Arial,sans-serif;font-size:12.5px;fill:#333}.caption{font-size:14px;fill:#111}",
        ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}.band{opacity:.14;stroke:none}",
        ".grid{stroke:#dde2e9;fill:none}.faint{stroke:#eef1f5}.axis{stroke:#333;stroke-width:1.2;fill:none}",
        "path.guide{stroke:#333;stroke-width:1.2;stroke-dasharray:2 4;fill:none}text.guide{font-size:12px}",
        ".mark{stroke:#fff;stroke-width:1.2}.mark.diverged{fill:none;stroke-width:2.6}",
        ".rest .band,.rest .end,.rest .mark{display:none}.rest .line{opacity:.5;stroke-width:1}",
    ]
    for index in dict.fromkeys(line.index for line in lines):
        colour, dash = look(index)
        name = style_class(index)
        rules.append(f".{name} .line{{stroke:{colour};stroke-dasharray:{dash}}}")
        rules.append(f".{name} .band,.{name} .end,.{name} .mark{{fill:{colour}}}")
        rules.append(f".{name} .mark.diverged{{fill:none;stroke:{colour}}}")
        if dash.startswith("0.1"):
            rules.append(f".{name} .line{{stroke-linecap:round}}")
    return "".join(rules)


def _legend(lines: Sequence[Line]) -> tuple[str, int]:
    """The legend below the plot, and how many rows it has."""
    across, row = 12, 0
    parts = []
    for line in lines:
        width = 42 + 7.2 * len(line.label)
        if across > 12 and across + width > WIDTH:
            across, row = 12, row + 1
        y = HEAD + HEIGHT + ROW * row + 10
        parts.append(
            f'<g class="{style_class(line.index)}"><path class="line" d="M{across:.0f} {y}h26"/>'
            f'<text x="{across + 32:.0f}" y="{y + 4}">{html.escape(line.label)}</text></g>'
        )
        across += width
    return "".join(parts), row + 1 if parts else 0


def _task_pictures(results: Results, task: str, palette: Palette) -> list[Picture]:
    rows = ranking_table(results)
    settings = results.settings()
    validation, mode, _ = shown_metrics(results.runs)
    drawn = [*figures.metrics_to_draw(results.runs, validation, mode), *figures.traces_to_draw(results.runs)]
    shown = {axis: timed_alone(rows) if axis == "seconds" else rows for axis in figures.AXIS_TITLES}
    found = []
    for key, way in drawn:
        guides = figures.guides_of(results.runs, key)
        for axis, ranked in shown.items():
            lines = figures.task_lines(settings, ranked, palette, axis, key, way)
            y_log = figures.log_scale(lines, way)
            ceiling, floor = figures.limits(lines, guides, way, y_log)
            name = _file_name(task, key.replace(".", "_"), axis)
            title = html.unescape(figures.caption_of(key))
            across = figures.AXIS_TITLES[axis]
            if lines:
                found.append(Picture(name, title, across, lines, guides, False, y_log, ceiling, floor))
    for title, lines in rate_lines(results, rows, palette).items():
        name = _file_name(task, "rate", title)
        found.append(Picture(name, title[:1].upper() + title[1:], "learning rate", lines, x_log=True, y_log=True))
    return found


def _file_name(*parts: str) -> str:
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
