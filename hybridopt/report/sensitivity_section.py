"""How the outcome depends on the learning rate, on the page."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence

from hybridopt.report.chart import Guide, draw
from hybridopt.report.curves import Line, Marker
from hybridopt.report.figures import Palette
from hybridopt.report.ranking import RankingRow, seconds_title, targets_of
from hybridopt.report.tables import method
from hybridopt.report.text import number
from hybridopt.results import Results, sensitivities

NOTE = (
    "Medians over seeds; bands hold the lowest to the highest seed of final losses, the bootstrap interval of times. "
    "A gap stands where the median run diverged, or did not reach the target."
)


def rate_lines(results: Results, rows: Sequence[RankingRow], palette: Palette) -> dict[str, list[Line]]:
    """Returns the lines over the learning rate by what they show; empty where no method has three rates.

    Args:
        results: Runs of one task.
        rows: Its ranking.
        palette: Colours of the methods; a method has that of its best rate.
    """
    found = sensitivities(results.runs)
    order = {row.setting: place for place, row in enumerate(rows)}
    labels = results.labels()
    goal = next(iter(targets_of(results.runs)), None)
    loss = "train_loss" if any(run.final("train_loss") is not None for run in results.runs) else "loss"
    titles = {f"final {loss.replace('train_loss', 'training loss')}": ""}
    if goal is not None:
        titles["gradient-equivalents to target"] = "gradient_equivalents"
        titles[f"{seconds_title(rows)} to target"] = "seconds"
    lines: dict[str, list[Line]] = {title: [] for title in titles}
    for one in found:
        best = min((runs[0].setting for runs in one.by_value), key=lambda setting: order.get(setting, len(order)))
        index, name = palette.index(labels[best]), _without_rate(labels[best])
        for title, axis in titles.items():
            if axis and goal is not None:
                times = one.times(goal, axis)
                y = [math.inf if time is None else time.median for time in times]
                low = [math.inf if time is None or time.low is None else time.low for time in times]
                high = [math.inf if time is None or time.high is None else time.high for time in times]
            else:
                finals = one.finals(loss)
                y = [statistics.median(values) if values else math.inf for values in finals]
                low = [values[0] if values else math.inf for values in finals]
                high = [values[-1] if values else math.inf for values in finals]
            if not any(map(math.isfinite, y)):
                continue
            banded = all(math.isfinite(value) for value in (*low, *high)) and low != high
            markers = [
                Marker(x, value, "event", f"lr {number(x)}: {number(value)}")
                for x, value in zip(one.values, y, strict=True)
                if math.isfinite(value)
            ]
            lines[title].append(
                Line(index, name, one.values, y, low if banded else [], high if banded else [], markers)
            )
    return {title: own for title, own in lines.items() if own}


def rates(results: Results, rows: Sequence[RankingRow], palette: Palette) -> str:
    """Returns the figures over the learning rate, nothing where no method has three rates.

    Args:
        results: Runs of one task.
        rows: Its ranking.
        palette: Colours of the methods.
    """
    found = rate_lines(results, rows, palette)
    if not found:
        return ""
    trivial = next((run.task_facts.get("trivial_loss") for run in results.runs if run.task_facts), None)
    drawn = []
    for title, lines in found.items():
        guides = []
        if title.startswith("final") and isinstance(trivial, int | float):
            guides = [Guide(float(trivial), "trivial predictor", "trivial")]
        chart = draw(
            lines,
            x_title="learning rate, log",
            description=f"{title} against the learning rate, {len(lines)} lines",
            guides=guides,
            x_log=True,
            y_log=True,
            ceiling=4 * float(trivial) if guides else None,
        )
        if chart is not None:
            caption = html.escape(title[:1].upper() + title[1:])
            drawn.append(f"<figure><figcaption>{caption} <span>lower is better</span></figcaption>{chart.svg}</figure>")
    looks = {_without_rate(row.label): row.label for row in reversed(rows)}
    names = dict.fromkeys(line.label for lines in found.values() for line in lines)
    keys = "".join(f"<span>{method(name, palette, look=looks[name])}</span>" for name in names)
    return (
        f'<h3>Learning rate</h3><div class="keys">{keys}</div><div class="charts">{"".join(drawn)}</div>'
        f'<p class="note">{NOTE}</p>'
    )


def _without_rate(label: str) -> str:
    return " ".join(part for part in label.split(" ") if not part.startswith("lr="))
