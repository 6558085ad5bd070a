"""Puts the page together: one file, with everything that it needs inside."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from hybridopt.experiment.jsonio import utc_now
from hybridopt.report import summary
from hybridopt.report.comparison_section import profile_section
from hybridopt.report.facts import failures, provenance
from hybridopt.report.figures import AXIS_TITLES, SCALES, Palette
from hybridopt.report.looks import COLOURS, DASHES, asset
from hybridopt.report.phases import phases_note
from hybridopt.report.section import overview, task_section
from hybridopt.report.tables import table
from hybridopt.report.text import number
from hybridopt.results import Results

DEFAULT_AXIS = "gradient_equivalents"
UNEVEN = 5.0
"""When the longest run of a task is so many times the median, the page opens with a logarithmic horizontal "
"axis."""


def render_page(results: Results) -> str:
    """Returns the report as one HTML document.

    Args:
        results: The runs, at least one.
    """
    palette = Palette(results)
    curves: dict[str, dict[str, list[list[object]]]] = {}
    sections = [
        task_section(results.select(task=task), task, palette, f"t{number}", curves)
        for number, task in enumerate(results.tasks)
    ]
    title = html.escape(summary.title_of(results))
    written = utc_now()[:16].replace("T", " ")
    body = [
        *_controls(len(palette), _default_scale(results)),
        "<main>",
        _header(results, title),
        overview(results, palette) if len(results.tasks) > 1 else "",
        profile_section(results, palette),
        *sections,
        _failures(results),
        _provenance(results),
        f"<footer>Written by hybridopt on {written} UTC from the run directories.</footer>",
        "</main>",
    ]
    # "</" inside a script element would end it.
    data = json.dumps(curves, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · hybridopt report</title>\n"
        f"<style>\n{asset('page.css')}{_rules(len(palette))}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + f'\n<script type="application/json" id="curves">{data}</script>\n'
        f"<script>\n{asset('page.js')}</script>\n</body>\n</html>\n"
    )


def _default_scale(results: Results) -> str:
    for task in results.tasks:
        ends = sorted(end for run in results.select(task=task) if (end := run.end(DEFAULT_AXIS)))
        if ends and ends[-1] > UNEVEN * ends[len(ends) // 2]:
            return "loglog"
    return "log"


def _controls(lines: int, scale: str) -> list[str]:
    """The switches: in front of everything, so that plain CSS rules can follow them."""
    parts = []
    for group, names, default in (("axis", AXIS_TITLES, DEFAULT_AXIS), ("scale", SCALES, scale)):
        for name, text in names.items():
            checked = " checked" if name == default else ""
            parts.append(
                f'<input class="control" type="radio" name="{group}" id="{group}-{name}" '
                f'aria-label="{html.escape(text)}"{checked}>'
            )
    parts.extend(
        f'<input class="control" type="checkbox" id="show{index}" aria-label="line {index + 1}" checked>'
        for index in range(lines)
    )
    return parts


def _rules(lines: int) -> str:
    """The rules that depend on how many lines there are."""
    rules = []
    for group, names in (("axis", AXIS_TITLES), ("scale", SCALES)):
        for name in names:
            rules.append(f"#{group}-{name}:checked ~ main .variant:not(.{group}-{name}) {{ display: none; }}")
            chosen = f'~ main label[for="{group}-{name}"]'
            rules.append(f"#{group}-{name}:checked {chosen} {{ background: var(--accent); color: var(--card); }}")
            rules.append(f"#{group}-{name}:focus-visible {chosen} {{ outline: 2px solid var(--ink); }}")
    for index in range(lines):
        name = f"s{index}"
        dash = DASHES[index % len(DASHES)]
        cap = "round" if dash.startswith("0.1") else "butt"
        rules.append(f".{name} {{ --c: var(--p{index % COLOURS}); --d: {dash}; --cap: {cap}; }}")
        rules.append(f"#show{index}:not(:checked) ~ main .series.{name} {{ display: none; }}")
        rules.append(
            f"#show{index}:not(:checked) ~ main label.{name} {{ opacity: .4; text-decoration: line-through; }}"
        )
        rules.append(f"#show{index}:focus-visible ~ main label.{name} {{ outline: 2px solid var(--ink); }}")
        pointed = f"section:has(label.{name}:hover, tr.{name}:hover)"
        rules.append(f"{pointed} .series:not(.{name}) {{ opacity: .13; }}")
    return "\n".join(rules) + "\n"


def _header(results: Results, title: str) -> str:
    banner = summary.banner_of(results)
    fine = " fine" if "not a comparison" not in banner and "too few" not in banner else ""
    parts = [
        '<header><p class="kicker">hybridopt report</p>',
        f"<h1>{title}</h1>",
        f'<p class="banner{fine}">{html.escape(banner)}</p>',
        f'<p class="sub">{html.escape(summary.subtitle_of(results))}</p>',
    ]
    for note in (
        summary.unfinished_of(results),
        summary.timing_note(results),
        summary.lanes_note(results),
        *summary.replay_notes(results),
    ):
        if note:
            parts.append(f'<p class="note">{html.escape(note)}</p>')
    if results.problems:
        parts.append(f'<p class="note">Not read: {html.escape("; ".join(results.problems))}</p>')
    if len(results.tasks) > 1:
        links = "".join(f'<a href="#t{n}">{html.escape(task)}</a>' for n, task in enumerate(results.tasks))
        parts.append(f"<nav>{links}</nav>")
    parts.append("</header>")
    return "\n".join(parts)


def _failures(results: Results) -> str:
    found = failures(results)
    if not found:
        return ""
    rows = [
        [
            ("name", html.escape(one.label)),
            ("text", html.escape(one.task)),
            ("", number(one.seed)),
            ("", f'<span class="pill {one.state}">{one.state}</span>'),
            ("prose", html.escape(one.message)),
            ("text", f"<code>{html.escape(one.directory)}</code>"),
        ]
        for one in found
    ]
    heads = [
        ("name", "optimizer"),
        ("text", "task"),
        ("", "seed"),
        ("", "state"),
        ("text", "why"),
        ("text", "run"),
    ]
    return f'<section id="failures"><h2>Runs that did not end well</h2>{table(heads, rows)}</section>'


def _provenance(results: Results) -> str:
    facts = provenance(results)
    rows = "".join(
        f'<tr><td class="text muted">{html.escape(name)}</td><td class="prose">{html.escape(text)}</td></tr>'
        for name, text in facts
    )
    notes = "".join(f'<p class="note">{html.escape(text)}</p>' for text in _notes(results))
    machine = f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else "<p>Not recorded.</p>"
    return (
        f'<section id="provenance"><h2>Where the numbers come from</h2>{machine}'
        f"<h3>How to read them</h3>{notes}</section>"
    )


def _notes(results: Results) -> Sequence[str]:
    notes = [summary.UNIT, summary.TIMES, summary.CLOCK, *phases_note(results)]
    timing = summary.timing_note(results)
    return [*notes, timing] if timing else notes
