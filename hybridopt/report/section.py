"""Tables of the page: overview, ranking, cost, events."""

from __future__ import annotations

import html
from collections.abc import Sequence

from hybridopt.report import figures, summary
from hybridopt.report.chart import style_class
from hybridopt.report.comparison_section import pairs
from hybridopt.report.curves import marker_kind
from hybridopt.report.facts import COSTS, CostRow, cost_table, event_table
from hybridopt.report.figures import Curves, Palette
from hybridopt.report.phases import phase_table, phases_section
from hybridopt.report.ranking import RankingRow, Time, ranking_table, seconds_title, shown_metrics, targets_of
from hybridopt.report.sensitivity_section import rates
from hybridopt.report.tables import Cell, method, stack, table
from hybridopt.report.text import DASH, count, metric, number
from hybridopt.results import Results

_COST_NAMES = {
    "forward": "forward",
    "gradient": "gradient",
    "hvp": "Hessian product",
    "ggnvp": "Gauss-Newton product",
}


def overview(results: Results, palette: Palette) -> str:
    """Returns all times to target, in gradient-equivalents and seconds side by side.

    Args:
        results: All runs.
        palette: Colours of the methods.
    """
    rows = ranking_table(results)
    heads: list[Cell] = [("name", "optimizer")]
    for task in results.tasks:
        own = [row for row in rows if row.task == task]
        heads.append(("wrap", f"{task} [gradient-equivalents]"))
        heads.append(("wrap", f"{task} [{seconds_title(own)}]"))
    by_label: dict[str, dict[str, RankingRow]] = {}
    for row in rows:
        by_label.setdefault(row.label, {})[row.task] = row
    order = sorted(by_label, key=lambda label: _mean_rank(by_label[label], results.tasks))
    most = _largest(rows)
    cells = []
    for label in order:
        line: list[Cell] = [_name_cell(next(iter(by_label[label].values())), palette)]
        for task in results.tasks:
            found = by_label[label].get(task)
            if found is None:
                line += [("muted", DASH), ("muted", DASH)]
            else:
                line.append(_time_cell(found.gradient_equivalents, most.get((task, "cost"))))
                line.append(_time_cell(found.seconds, most.get((task, "seconds"))))
        cells.append(line)
    kinds = [style_class(palette.index(label)) for label in order]
    return (
        '<section id="overview"><h2>Time to target at a glance</h2>'
        '<p class="note">Shorter bars are better. What each target is stands with its task.</p>'
        f"{table(heads, cells, kinds)}</section>"
    )


def task_section(results: Results, task: str, palette: Palette, anchor: str, curves: Curves) -> str:
    """Returns everything about one task.

    Args:
        results: Runs of the task.
        task: Its name.
        palette: Colours of the methods.
        anchor: Id of the section, and start of its figures' names.
        curves: Receives the curves that the script reads.
    """
    rows = ranking_table(results)
    validation, mode, _ = shown_metrics(results.runs)
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"
        for name, text in summary.task_facts(results.runs)
    )
    drawn = "".join(
        figures.figure(results, rows, palette, f"{anchor}-{place}", key, direction, curves)
        for place, (key, direction) in enumerate(figures.metrics_to_draw(results.runs, validation, mode))
    )
    return "\n".join(
        [
            f'<section class="task" id="{anchor}"><h2>{html.escape(task)}</h2>',
            f'<dl class="facts">{facts}</dl>',
            f"<h3>Ranking{_by(rows)}</h3>",
            _ranking(rows, palette),
            *_other_targets(results, palette),
            "<h3>Learning curves</h3>",
            figures.controls(),
            figures.legend(rows, palette),
            f'<div class="charts">{drawn}</div>',
            _marks_note(results),
            _traces(results, rows, palette, anchor, curves),
            pairs(results, rows, palette),
            rates(results, rows, palette),
            "<h3>What it cost</h3>",
            _cost(cost_table(results), rows, palette),
            phases_section(phase_table(results), seconds_title(rows), palette),
            _events(results, palette),
            _settings(results, rows, palette),
            "</section>",
        ]
    )


def _traces(results: Results, rows: Sequence[RankingRow], palette: Palette, anchor: str, curves: Curves) -> str:
    drawn = "".join(
        figures.figure(results, rows, palette, f"{anchor}-trace{place}", key, mode, curves)
        for place, (key, mode) in enumerate(figures.traces_to_draw(results.runs))
    )
    return f'<h3>Along the run</h3><div class="charts">{drawn}</div>' if drawn else ""


def _ranking(rows: Sequence[RankingRow], palette: Palette) -> str:
    unit = seconds_title(rows)
    most = _largest(rows)
    validation = next((row.validation_metric for row in rows if row.validation_metric), "validation")
    test = next((row.test_metric for row in rows if row.test_metric), "test")
    heads: list[Cell] = [
        ("rank", "#"),
        ("name", "optimizer"),
        ("wrap", "target reached"),
        ("wrap", "to target [gradient-equivalents]"),
        ("wrap", f"to target [{unit}]"),
        ("wrap", "final train loss"),
        ("wrap", f"best {metric(validation)}"),
        ("wrap", metric(test)),
        ("", "steps"),
        ("wrap", f"total [{unit}]"),
        ("", "status"),
    ]
    mixed = len({row.timing for row in rows}) > 1
    cells = []
    for row in rows:
        mark = f"<small>{row.timing}</small>" if mixed else ""
        line: list[Cell] = [("rank", DASH if row.rank is None else str(row.rank)), _name_cell(row, palette)]
        kind, time = _time_cell(row.seconds, most.get((row.task, "seconds")), row.seconds_rank)
        line += [
            _reached_cell(row),
            _time_cell(row.gradient_equivalents, most.get((row.task, "cost"))),
            (kind, time + mark),
            ("", number(row.train_loss)),
            ("", number(row.validation)),
            ("", number(row.test)),
            ("", count(row.steps)),
            ("", number(row.total_seconds) + mark),
            ("", _pill(row)),
        ]
        cells.append(line)
    return table(heads, cells, [style_class(palette.index(row.label)) for row in rows])


def _other_targets(results: Results, palette: Palette) -> list[str]:
    parts = []
    for place, target in enumerate(targets_of(results.runs)[1:], start=1):
        rows = ranking_table(results, place)
        most = _largest(rows)
        heads: list[Cell] = [
            ("rank", "#"),
            ("name", "optimizer"),
            ("wrap", "target reached"),
            ("wrap", "to target [gradient-equivalents]"),
            ("wrap", f"to target [{seconds_title(rows)}]"),
        ]
        cells = [
            [
                ("rank", DASH if row.rank is None else str(row.rank)),
                _name_cell(row, palette),
                _reached_cell(row),
                _time_cell(row.gradient_equivalents, most.get((row.task, "cost"))),
                _time_cell(row.seconds, most.get((row.task, "seconds"))),
            ]
            for row in rows
        ]
        kinds = [style_class(palette.index(row.label)) for row in rows]
        parts.append(
            f"<details><summary>Ranking by the other target: {html.escape(str(target))}</summary>"
            f"{table(heads, cells, kinds)}</details>"
        )
    return parts


def _cost(costs: Sequence[CostRow], rows: Sequence[RankingRow], palette: Palette) -> str:
    heads: list[Cell] = [("name", "optimizer")]
    heads += [("wrap", f"{name}s") for name in _COST_NAMES.values()]
    heads += [("wrap", "share of the cost"), ("wrap", "gradient-equivalents"), ("wrap", seconds_title(rows))]
    by_setting = {row.setting: row for row in rows}
    cells = [
        [
            _name_cell(by_setting[cost.setting], palette),
            *(("", count(cost.calls[kind])) for kind in COSTS),
            ("", stack(cost.shares, _COST_NAMES)),
            ("", number(cost.gradient_equivalents)),
            ("", number(cost.seconds)),
        ]
        for cost in costs
    ]
    keys = "".join(f'<span><i class="k-{kind}"></i>{name}</span>' for kind, name in _COST_NAMES.items())
    kinds = [style_class(palette.index(cost.label)) for cost in costs]
    return f'<div class="keys">{keys}</div>{table(heads, cells, kinds)}'


def _events(results: Results, palette: Palette) -> str:
    found = event_table(results)
    if not found:
        return ""
    several = len(results.runs) > len(results.settings())
    heads: list[Cell] = [("name", "optimizer"), ("text", "event"), ("wrap", "how often")]
    heads += [("wrap", "in runs")] if several else []
    heads += [("wrap", "first at step"), ("wrap", "first at [gradient-equivalents]")]
    cells = [
        [
            ("name", method(event.label, palette)),
            ("text", html.escape(event.event.replace("_", " "))),
            ("", count(event.times)),
            *([("", count(event.runs))] if several else []),
            ("", count(event.first_step)),
            ("", number(event.first_cost)),
        ]
        for event in found
    ]
    return f"<h3>What happened on the way</h3>{table(heads, cells)}"


def _settings(results: Results, rows: Sequence[RankingRow], palette: Palette) -> str:
    settings = results.settings()
    cells: list[list[Cell]] = [
        [
            ("name", method(row.label, palette)),
            ("prose", f"<code>{html.escape(summary.options_of(settings[row.setting][0]))}</code>"),
        ]
        for row in rows
    ]
    inner = table([("name", "optimizer"), ("text", "options")], cells)
    return f"<details><summary>Options of every method</summary>{inner}</details>"


def _marks_note(results: Results) -> str:
    settings = results.settings()
    seeds = max(map(len, settings.values()))
    parts = []
    if seeds > 1:
        band = "the lowest to the highest" if seeds <= 3 else "the middle half"
        parts.append(f"Lines are medians over seeds, bands hold {band} of them.")
    kinds = {marker_kind(event.event) for event in event_table(results)}
    names = {"switch": "◆ switch of optimizer", "escape": "▲ escape from a saddle", "event": "● other event"}
    shown = [text for kind, text in names.items() if kind in kinds]
    if any(len(runs) == 1 and runs[0].state == "diverged" for runs in settings.values()):
        shown.append("✕ diverged")
    if shown:
        parts.append("Marks on the lines: " + ", ".join(shown) + ".")
    return f'<p class="note">{" ".join(parts)}</p>' if parts else ""


def _by(rows: Sequence[RankingRow]) -> str:
    target = next((row.target for row in rows if row.target), None)
    return f' <span class="muted">by time to {html.escape(str(target))}</span>' if target else ""


def _name_cell(row: RankingRow, palette: Palette) -> Cell:
    kinds = [row.family or "", f"escape: {row.escape.replace('_', ' ')}" if row.escape else ""]
    return "name", method(row.label, palette, ", ".join(filter(None, kinds)))


def _time_cell(time: Time, most: float | None, rank: int | None = None) -> Cell:
    if time.value is None:
        return "muted", html.escape(str(time))
    width = 100 * time.value / most if most else 0
    below = " · ".join(filter(None, [time.interval, f"#{rank}" if rank else ""]))
    small = f"<small>{below}</small>" if below else ""
    return f"bar|--w:{max(1.5, width):.1f}%", number(time.value) + small


def _reached_cell(row: RankingRow) -> Cell:
    if row.target is None:
        return "muted", DASH
    if row.runs == 1:
        return ("yes", "yes") if row.reached else ("no", "no")
    return ("yes" if row.reached == row.runs else "no"), f"{row.reached} of {row.runs}"


def _pill(row: RankingRow) -> str:
    kind = row.status if " " not in row.status else "mixed"
    return f'<span class="pill {kind}">{html.escape(row.status)}</span>'


def _largest(rows: Sequence[RankingRow]) -> dict[tuple[str, str], float]:
    """The largest time of every task and axis, for the lengths of the bars."""
    most: dict[tuple[str, str], float] = {}
    for row in rows:
        for name, time in (("cost", row.gradient_equivalents), ("seconds", row.seconds)):
            if time.value is not None:
                most[row.task, name] = max(most.get((row.task, name), 0.0), time.value)
    return most


def _mean_rank(by_task: dict[str, RankingRow], tasks: Sequence[str]) -> tuple[float, str]:
    ranks = [by_task[task].rank if task in by_task else None for task in tasks]
    label = next(iter(by_task.values())).label
    return sum(999 if rank is None else rank for rank in ranks) / len(ranks), label
