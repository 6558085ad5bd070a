"""Profiles and pairwise tests on the page."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from hybridopt.report.chart import draw, style_class
from hybridopt.report.comparison import (
    AXES,
    PAIRS_NOTE,
    PROFILE_NOTE,
    PairTable,
    ProfileComparison,
    compare_methods,
    compare_profiles,
    pair_title,
    profile_facts,
)
from hybridopt.report.curves import Line
from hybridopt.report.figures import Palette
from hybridopt.report.ranking import RankingRow
from hybridopt.report.tables import Cell, method, table
from hybridopt.report.text import DASH, number
from hybridopt.results import Results


def profile_lines(found: ProfileComparison, palette: Palette) -> list[Line]:
    """Returns the profiles as lines to draw.

    Args:
        found: The comparison.
        palette: Colours of the methods.
    """
    lines = []
    for one in found.profiles:
        x, y = zip(*one.corners(), strict=True)
        lines.append(Line(palette.index(one.name), one.name, list(x), list(y), [], [], []))
    return lines


def profile_section(results: Results, palette: Palette) -> str:
    """Returns the performance profiles and scores over all tasks, nothing where there are too few problems.

    Args:
        results: All runs.
        palette: Colours of the methods.
    """
    found = [one for axis in AXES if (one := compare_profiles(results, axis)) is not None]
    if not found:
        return ""
    drawn = []
    for one in found:
        title = f"{AXES[one.axis]} to target, over the best method's"
        chart = draw(
            profile_lines(one, palette), x_title=title, description=f"Performance profiles: {title}", span=(0, 1)
        )
        if chart is not None:
            caption = f"Share of problems solved <span>{AXES[one.axis]}</span>"
            drawn.append(f"<figure><figcaption>{caption}</figcaption>{chart.svg}</figure>")
    scores = [{one.name: one.score() for one in comparison.profiles} for comparison in found]
    heads: list[Cell] = [("name", "optimizer")]
    heads += [("wrap", f"score by {AXES[one.axis]}") for one in found]
    names = [one.name for one in found[0].profiles]
    rows: list[list[Cell]] = [
        [("name", method(name, palette)), *(_score_cell(own.get(name)) for own in scores)] for name in names
    ]
    kinds = [style_class(palette.index(name)) for name in names]
    pairwise = "".join(
        f"<h3>By {AXES[one.axis]}</h3>"
        + _matrix([p.name for p in one.profiles], palette, lambda a, b, one=one: ("", number(one.pairwise[a, b], 2)))
        for one in found
    )
    return (
        '<section id="profiles"><h2>Performance profiles</h2>'
        f'<p class="sub">{html.escape(profile_facts(found[0]))}</p>'
        f'<div class="charts">{"".join(drawn)}<div>{table(heads, rows, kinds)}</div></div>'
        "<details><summary>Score of every method against every other one alone</summary>"
        f'{pairwise}</details><p class="note">{html.escape(PROFILE_NOTE)}</p></section>'
    )


def pairs(results: Results, rows: Sequence[RankingRow], palette: Palette) -> str:
    """Returns the pairwise tests of one task, nothing where there is no pair with two common seeds.

    Args:
        results: Runs of the task.
        rows: Its ranking.
        palette: Colours of the methods.
    """
    found = [one for axis in AXES if (one := compare_methods(results, list(rows), axis)) is not None]
    if not found:
        return ""
    parts = ["<h3>Pair by pair</h3>"]
    for one in found:
        parts.append(f'<p class="sub">Times to target in {AXES[one.axis]}. {html.escape(one.note)}</p>')
        parts.append(_matrix(one.names, palette, lambda a, b, one=one: _ratio_cell(one, a, b)))
    return "".join([*parts, f'<p class="note">{html.escape(PAIRS_NOTE)}</p>'])


def _ratio_cell(found: PairTable, name: str, other: str) -> Cell:
    test = found.tests[name, other]
    if test.ratio is None:
        return "grey", DASH
    kind = "grey"
    if test.significant():
        kind = "better" if test.ratio < 1 else "worse"
    return kind, f'<span title="{html.escape(pair_title(test), quote=True)}">{number(test.ratio, 2)}</span>'


def _score_cell(score: float | None) -> Cell:
    if score is None:
        return "muted", DASH
    return f"bar|--w:{max(1.5, 100 * score):.1f}%", number(score)


def _matrix(names: Sequence[str], palette: Palette, cell: Callable[[str, str], Cell]) -> str:
    """A table of every method against every other; columns have numbers, as names would not fit."""
    heads: list[Cell] = [("name", "optimizer"), *(("", str(place)) for place in range(1, len(names) + 1))]
    rows = []
    for place, name in enumerate(names, start=1):
        line: list[Cell] = [("name", method(f"{place} {name}", palette, look=name))]
        line += [("muted", "·") if name == other else cell(name, other) for other in names]
        rows.append(line)
    return f'<div class="matrix">{table(heads, rows, [style_class(palette.index(name)) for name in names])}</div>'
