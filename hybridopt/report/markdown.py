"""The report's twin in Markdown: the same numbers without the curves."""

from __future__ import annotations

from collections.abc import Sequence

from hybridopt.report import summary
from hybridopt.report.facts import COSTS, cost_table, event_table, failures, provenance
from hybridopt.report.ranking import ranking_table, ranking_texts, seconds_title, targets_of
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
    parts += [note for note in (summary.unfinished_of(results), summary.timing_note(results)) if note]
    if results.problems:
        parts.append("Not read: " + "; ".join(results.problems))
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
    parts += [summary.UNIT, summary.TIMES, summary.CLOCK]
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
    events = event_table(results)
    if events:
        parts.append("### What happened on the way")
        lines = [
            [one.label, one.event, count(one.times), count(one.first_step), number(one.first_cost)] for one in events
        ]
        heads = ["optimizer", "event", "how often", "first at step", "first at [gradient-equivalents]"]
        parts.append(_table(heads, lines))
    return parts


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        texts = (cell.replace("|", "\\|").replace("\n", " ") or DASH for cell in cells)
        return "| " + " | ".join(texts) + " |"

    return "\n".join([line(heads), "|" + " --- |" * len(heads), *map(line, rows)])
