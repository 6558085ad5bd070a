"""The figures of a task: every axis and scale drawn beforehand, so that switching needs no script."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from hybridopt.report.chart import Guide, draw, style_class
from hybridopt.report.curves import Line, line_of
from hybridopt.report.ranking import RankingRow, direction, ranking_table, targets_of, timed_alone, timing_of
from hybridopt.report.text import metric
from hybridopt.results import Results, Run

AXIS_TITLES = {"steps": "steps", "gradient_equivalents": "gradient-equivalents", "seconds": "seconds"}
SCALES = {"linear": "linear", "log": "log", "loglog": "log-log"}

COLOURED = 14
"""Settings of a task that are drawn in colour; those behind them in the ranking are grey."""

TRACES = {
    "report.damping": "damping",
    "report.radius": "trust radius",
    "report.sigma": "weight of the cubic term",
    "event.lambda_min": "least eigenvalue that escapes found",
}
"""Values along the run that get a figure where rows hold them."""

GREY = 60
"""Grey lines of a task at most."""

_FAMILIES = {"first-order": 0, "quasi-newton": 1, "newton": 2, "structured": 3, "hybrid": 4}

Curves = dict[str, dict[str, list[list[object]]]]


class Palette:
    """Numbers for colours and dash patterns: a method has the same in all tasks.

    Args:
        results: All runs of the report.
    """

    def __init__(self, results: Results) -> None:
        shown: dict[str, tuple[int, str]] = {}
        rows = ranking_table(results)
        for task in results.tasks:
            for row in [row for row in rows if row.task == task][:COLOURED]:
                shown.setdefault(row.label, (_FAMILIES.get(row.family or "", 9), row.label))
        self._numbers = {label: place for place, label in enumerate(sorted(shown, key=shown.__getitem__))}

    def __len__(self) -> int:
        return len(self._numbers)

    def index(self, label: str) -> int | None:
        """Returns the number of a method, None if it is drawn in grey.

        Args:
            label: Name of the setting.
        """
        return self._numbers.get(label)

    def swatch(self, label: str) -> str:
        """Returns a short piece of the method's line, as SVG.

        Args:
            label: Name of the setting.
        """
        kind = style_class(self.index(label))
        return f'<svg class="swatch {kind}" viewBox="0 0 28 10" aria-hidden="true"><path d="M0 5H28"/></svg>'


def legend(rows: Sequence[RankingRow], palette: Palette) -> str:
    """Returns the legend of a task, in the ranking's order.

    Args:
        rows: The task's ranking.
        palette: Colours of the methods.
    """
    entries = [
        f'<label for="show{palette.index(row.label)}" class="{style_class(palette.index(row.label))}">'
        f"{palette.swatch(row.label)}{html.escape(row.label)}</label>"
        for row in rows
        if palette.index(row.label) is not None
    ]
    grey = len(rows) - len(entries)
    more = f'<span class="note">and {min(grey, GREY)} more in grey</span>' if grey else ""
    return f'<div class="legend">{"".join(entries)}{more}<button type="button" hidden>show all</button></div>'


def controls() -> str:
    """Returns the two switches above the figures; their inputs stand at the start of the page."""
    groups = []
    for group, title, names in (("axis", "against", AXIS_TITLES), ("scale", "scale", SCALES)):
        labels = "".join(f'<label for="{group}-{name}">{text}</label>' for name, text in names.items())
        groups.append(f'<div class="choice">{title}<span class="segments">{labels}</span></div>')
    return f'<div class="controls">{"".join(groups)}</div>'


def figure(
    results: Results,
    rows: Sequence[RankingRow],
    palette: Palette,
    name: str,
    key: str,
    mode: str,
    curves: Curves,
) -> str:
    """Returns one metric's figure in all variants, and adds its curves to what the script reads.

    Args:
        results: Runs of one task.
        rows: The task's ranking.
        palette: Colours of the methods.
        name: Name of the figure in `curves`.
        key: The metric: a key of evaluation rows, or "loss".
        mode: "min" or "max"; "free" for what is neither good nor bad, "signed" for what may be negative besides.
        curves: Receives the curves, by figure and axis.
    """
    parts = [f"<figure><figcaption>{caption_of(key)} <span>{_direction_text(mode)}</span></figcaption>"]
    guides = guides_of(results.runs, key)
    settings = results.settings()
    for axis, axis_title in AXIS_TITLES.items():
        shown, title = rows, axis_title
        if axis == "seconds":
            shown, title = _seconds_rows(rows, timing_of(results.runs))
        lines = task_lines(settings, shown, palette, axis, key, mode)
        curves.setdefault(name, {})[axis] = [_data(line) for line in lines if line.index is not None]
        for scale_classes, x_log, y_log in _variants(log_scale(lines, mode)):
            parts.append(_variant(lines, guides, name, axis, title, scale_classes, x_log, y_log, key, mode))
    parts.append("</figure>")
    return "".join(parts)


def _seconds_rows(rows: Sequence[RankingRow], timing: str) -> tuple[Sequence[RankingRow], str]:
    """What is drawn against seconds and the axis's title: who had the machine alone, if anybody had."""
    alone = timed_alone(rows)
    if timing == "exclusive" or not alone:
        return rows, "seconds" if timing == "exclusive" else f"seconds (timing: {timing})"
    return alone, f"seconds (the {len(alone)} of {len(rows)} settings that had the machine alone)"


def log_scale(lines: Sequence[Line], mode: str) -> bool:
    """Tells whether a figure's vertical axis may be logarithmic: not for accuracies, nor where values are negative.

    Args:
        lines: The lines.
        mode: See `figure`.
    """
    return mode in ("min", "free") and not any(value < 0 for line in lines for value in line.y)


def _variants(y_log: bool) -> list[tuple[str, bool, bool]]:
    """Classes, logarithmic x, logarithmic y, which some figures never have."""
    if not y_log:
        return [("scale-linear scale-log", False, False), ("scale-loglog", True, False)]
    return [("scale-linear", False, False), ("scale-log", False, True), ("scale-loglog", True, True)]


def _variant(
    lines: Sequence[Line],
    guides: Sequence[Guide],
    name: str,
    axis: str,
    title: str,
    scale_classes: str,
    x_log: bool,
    y_log: bool,
    key: str,
    mode: str,
) -> str:
    ceiling, floor = limits(lines, guides, mode, y_log)
    description = f"{caption_of(key)} against {title}, {len(lines)} lines"
    full = f"{title}, log" if x_log else title
    chart = draw(
        lines,
        x_title=full,
        description=description,
        guides=guides,
        x_log=x_log,
        y_log=y_log,
        ceiling=ceiling,
        floor=floor,
    )
    classes = f"variant axis-{axis} {scale_classes}"
    if chart is None:
        return f'<div class="{classes}"><p class="empty">no values recorded</p></div>'
    x = chart.x
    place = f"{x.low:.6g} {x.high:.6g} {x.start:g} {x.stop:g} {int(x.log)}"
    unit = AXIS_TITLES[axis]
    return (
        f'<div class="{classes}" data-chart="{name}" data-axis="{axis}" data-x="{place}" data-mode="{mode}" '
        f'data-unit="{unit}">{chart.svg}</div>'
    )


def task_lines(
    settings: Mapping[str, list[Run]],
    rows: Sequence[RankingRow],
    palette: Palette,
    axis: str,
    key: str,
    mode: str,
) -> list[Line]:
    """Returns the lines of one figure, in the ranking's order.

    Args:
        settings: Runs by setting.
        rows: The task's ranking.
        palette: Colours of the methods.
        axis: One of `AXIS_TITLES`.
        key: The metric.
        mode: See `figure`.
    """
    lines = []
    grey = 0
    for row in rows:
        index = palette.index(row.label)
        if index is None:
            grey += 1
            if grey > GREY:
                continue
        line = line_of(settings[row.setting], axis, key, mode, index=index, label=row.label)
        if line is not None:
            lines.append(line)
    return lines


def guides_of(runs: Sequence[Run], key: str) -> list[Guide]:
    """Returns the target and the trivial predictor's loss, where a figure shows them.

    Args:
        runs: Runs of one task.
        key: The metric.
    """
    guides = [Guide(target.value, "target", "target") for target in targets_of(runs) if target.metric == key]
    trivial = next((run.task_facts.get("trivial_loss") for run in runs if run.task_facts), None)
    if key in ("loss", "train_loss", "validation_loss") and isinstance(trivial, int | float):
        guides.append(Guide(float(trivial), "trivial predictor", "trivial"))
    return guides


def limits(lines: Sequence[Line], guides: Sequence[Guide], mode: str, y_log: bool) -> tuple[float | None, float | None]:
    """Returns how far the vertical axis reaches at least: diverging lines leave it rather than flatten the others.

    Args:
        lines: The lines.
        guides: The guides.
        mode: See `figure`.
        y_log: Whether the vertical axis is logarithmic.
    """
    if mode in ("free", "signed"):
        return None, None
    if mode == "max":
        values = sorted(value for line in lines for value in line.y if math.isfinite(value))
        return None, values[len(values) // 50] if values else None
    starts = [next((value for value in line.y if math.isfinite(value)), math.nan) for line in lines]
    highest = max([value for value in (*starts, *(guide.value for guide in guides)) if value > 0], default=None)
    return (None if highest is None else highest * (4.0 if y_log else 1.25)), None


def _data(line: Line) -> list[object]:
    def short(values: Sequence[float]) -> list[float | None]:
        return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]

    return [line.index, line.label, short(line.x), short(line.y)]


def caption_of(key: str) -> str:
    """Returns the title of a metric's figure, escaped for HTML.

    Args:
        key: The metric.
    """
    names = {"loss": "training loss on the batch", "train_loss": "training loss", **TRACES}
    text = names.get(key, metric(key))
    return html.escape(text[:1].upper() + text[1:])


def _direction_text(mode: str) -> str:
    return {"min": "lower is better", "max": "higher is better"}.get(mode, "")


def metrics_to_draw(runs: Sequence[Run], validation: str | None, mode: str) -> list[tuple[str, str]]:
    """Returns the metrics that get a figure, with their directions: a training loss and a validation metric.

    Args:
        runs: Runs of one task.
        validation: The validation metric shown in the ranking.
        mode: Its direction.
    """
    evaluated = any("train_loss" in row for run in runs for row in run.evaluations[:1])
    drawn = [("train_loss" if evaluated else "loss", direction("loss"))]
    if validation is not None:
        drawn.append((validation, mode))
    return drawn


def traces_to_draw(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns the metrics of `TRACES` that any run has two values of, with their modes.

    Args:
        runs: Runs of one task.
    """
    return [
        (key, "signed" if key.startswith("event.") else "free")
        for key in TRACES
        if any(len(run.curve("steps", key)) > 1 for run in runs)
    ]
