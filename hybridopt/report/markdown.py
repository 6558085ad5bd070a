"""The report's twin in Markdown: the same numbers without the curves."""

from __future__ import annotations

from collections.abc import Sequence

from hybridopt.report import summary
from hybridopt.report.comparison import (
    AXES,
    PAIRS_NOTE,
    PROFILE_NOTE,
    PairTable,
    compare_methods,
    compare_profiles,
    profile_facts,
)
from hybridopt.report.facts import COSTS, cost_table, event_table, failures, provenance
from hybridopt.report.figures import Palette
from hybridopt.report.phases import NAMES, phase_table, phase_texts, phases_note
from hybridopt.report.ranking import RankingRow, ranking_table, ranking_texts, seconds_title, targets_of
from hybridopt.report.sensitivity_section import rate_lines
from hybridopt.report.text import DASH, count, number
from hybridopt.results import Results


def render_markdown(results: Results) -> str:
    """Returns the report as Markdown.

    Args:
        results: The runs, at least one.
    """
    parts = [
        f"# {summary.title_of(results)}",
        f"**{summary.banner_of(results)}**",
        summary.subtitle_of(results),
    ]
    notes = (summary.unfinished_of(results), summary.timing_note(results), summary.lanes_note(results))
    parts += [note for note in notes if note]
    parts += summary.replay_notes(results)
    if results.problems:
        parts.append("Not read: " + "; ".join(results.problems))
    parts += _profiles(results)
    for task in results.tasks:
        parts += _task(results.select(task=task), task)
    failed = failures(results)
    if failed:
        parts.append("## Runs that did not end well")
        rows = [[one.task, one.label, number(one.seed), one.state, one.message, f"`{one.directory}`"] for one in failed]
        parts.append(_table(["task", "optimizer", "seed", "state", "why", "run"], rows))
    parts.append("## Where the numbers come from")
    facts = provenance(results)
    parts.append(_table(["fact", "value"], [list(fact) for fact in facts]) if facts else "Not recorded.")
    parts += [summary.UNIT, summary.TIMES, summary.CLOCK, *phases_note(results)]
    return "\n\n".join(parts) + "\n"


def _task(results: Results, task: str) -> list[str]:
    parts = [f"## {task}"]
    parts.append("\n".join(f"- {name}: {text}" for name, text in summary.task_facts(results.runs)))
    rows = ranking_table(results)
    texts = ranking_texts(rows)
    parts.append(_table(list(texts[0]), [list(text.values()) for text in texts]))
    for place, target in enumerate(targets_of(results.runs)[1:], start=1):
        other = ranking_texts(ranking_table(results, place))
        columns = [name for name in other[0] if name in ("#", "optimizer") or "target" in name]
        parts.append(f"By the other target, {target}:")
        parts.append(_table(columns, [[text[name] for name in columns] for text in other]))
    parts += _pairs(results, rows)
    parts += _rates(results)
    parts.append("### What it cost")
    costs = [
        [
            cost.label,
            *(count(cost.calls[kind]) for kind in COSTS),
            number(cost.gradient_equivalents),
            number(cost.seconds),
        ]
        for cost in cost_table(results)
    ]
    heads = ["optimizer", "forwards", "gradients", "Hessian products", "Gauss-Newton products"]
    parts.append(_table([*heads, "gradient-equivalents", seconds_title(rows)], costs))
    phases = phase_table(results)
    if phases:
        parts += ["### Where the time went"]
        heads = ["optimizer", *NAMES.values(), "in all"]
        parts.append(f"In {seconds_title(rows)}; in brackets the share of the time.")
        parts.append(_table(heads, phase_texts(phases)))
    events = event_table(results)
    if events:
        parts.append("### What happened on the way")
        lines = [
            [one.label, one.event, count(one.times), count(one.first_step), number(one.first_cost)] for one in events
        ]
        heads = ["optimizer", "event", "how often", "first at step", "first at [gradient-equivalents]"]
        parts.append(_table(heads, lines))
    return parts


def _profiles(results: Results) -> list[str]:
    found = [one for axis in AXES if (one := compare_profiles(results, axis)) is not None]
    if not found:
        return []
    scores = [{one.name: one.score() for one in comparison.profiles} for comparison in found]
    lines = [[one.name, *(number(own.get(one.name)) for own in scores)] for one in found[0].profiles]
    heads = ["optimizer", *(f"score by {AXES[one.axis]}" for one in found)]
    return ["## Performance profiles", profile_facts(found[0]), _table(heads, lines), PROFILE_NOTE]


def _pairs(results: Results, rows: list[RankingRow]) -> list[str]:
    found = [one for axis in AXES if (one := compare_methods(results, rows, axis)) is not None]
    parts = ["### Pair by pair"] if found else []
    for one in found:
        parts.append(f"Times to target in {AXES[one.axis]}. {one.note} Significant ratios are bold.")
        lines = []
        for place, name in enumerate(one.names, start=1):
            cells = ["·" if name == other else _ratio(one, name, other) for other in one.names]
            lines.append([f"{place} {name}", *cells])
        parts.append(_table(["optimizer", *(str(place) for place in range(1, len(one.names) + 1))], lines))
    return [*parts, PAIRS_NOTE] if parts else []


def _ratio(found: PairTable, name: str, other: str) -> str:
    test = found.tests[name, other]
    text = number(test.ratio, 2)
    return f"**{text}**" if test.significant() else text


def _rates(results: Results) -> list[str]:
    rows = ranking_table(results)
    parts = []
    for title, lines in rate_lines(results, rows, Palette(results)).items():
        cells = [[line.label, number(x), number(y)] for line in lines for x, y in zip(line.x, line.y, strict=True)]
        parts.append(_table(["optimizer", "learning rate", title], cells))
    return ["### Learning rate", *parts] if parts else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        texts = (cell.replace("|", "\\|").replace("\n", " ") or DASH for cell in cells)
        return "| " + " | ".join(texts) + " |"

    return "\n".join([line(heads), "|" + " --- |" * len(heads), *map(line, rows)])
