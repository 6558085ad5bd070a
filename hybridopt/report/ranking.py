"""The ranking: one row a setting, sorted by its time to the target."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from hybridopt.report.text import DASH, count, metric, number
from hybridopt.results import Results, Run, Target, time_of_runs


@dataclasses.dataclass(frozen=True)
class Time:
    """A median time to a target over the seeds of one setting.

    Attributes:
        value: The median, with runs that did not reach the target as infinitely late; None if that is half of them or
            more: the median is censored.
        censored_at: What a censored median exceeds at least; None if it is not censored, or no run has started.
        final: Whether the runs are over; a running one may still reach the target.
        low: Lower end of the median's 95 % bootstrap interval, None for too few seeds or a censored median.
        high: Upper end, infinite if the runs do not bound the median from above.
    """

    value: float | None
    censored_at: float | None
    final: bool
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> str:
        """The interval as text: "[11.0, 14.2]", empty if there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{number(self.low)}, {number(self.high)}{')' if math.isinf(self.high) else ']'}"

    def __str__(self) -> str:
        if self.value is not None:
            return f"{number(self.value)} {self.interval}".rstrip()
        if self.censored_at is None:
            return DASH
        return f"> {number(self.censored_at)}" if self.final else f"not yet at {number(self.censored_at)}"


@dataclasses.dataclass(frozen=True)
class RankingRow:
    """One setting of one task in the ranking; numbers are medians over its seeds.

    Attributes:
        task: Name of the task.
        rank: Place, from 1; None for a setting of which no run has any result.
        label: Name of the setting, see `Results.labels`.
        setting: Its identity.
        optimizer: Name of the optimizer.
        family: Its family, None if not recorded.
        escape: Name of the escape strategy, None if there is none.
        target: The target that is ranked by, None if the task has none.
        runs: Number of runs (seeds).
        reached: How many of them reached the target.
        gradient_equivalents: Time to target in gradient-equivalents.
        seconds: Time to target in seconds of training.
        seconds_rank: Place by seconds, among the settings whose runs all had their machine alone; None for others and
            for those that did not reach the target.
        train_loss: Loss on the training set at the end.
        validation_metric: Name of the validation metric shown.
        validation: Its best value.
        test_metric: Name of the test metric shown.
        test: Its value, at the parameters with the best validation loss if recorded, else at the last ones.
        steps: Optimizer steps.
        total_gradient_equivalents: Cost of the whole run.
        total_seconds: Seconds of training of the whole run.
        status: "done", or how many runs ended how.
        timing: What the seconds are worth: "exclusive", "shared", "lanes", "mixed", or "unknown".
    """

    task: str
    rank: int | None
    label: str
    setting: str
    optimizer: str
    family: str | None
    escape: str | None
    target: Target | None
    runs: int
    reached: int
    gradient_equivalents: Time
    seconds: Time
    seconds_rank: int | None
    train_loss: float | None
    validation_metric: str | None
    validation: float | None
    test_metric: str | None
    test: float | None
    steps: float | None
    total_gradient_equivalents: float | None
    total_seconds: float | None
    status: str
    timing: str


def ranking_table(results: Results, target: int = 0) -> list[RankingRow]:
    """Ranks the settings of every task by their time to a target in gradient-equivalents.

    Settings of which at least half of the runs reached the target come first, by median time; the others
    follow by how many runs reached it and then by how near they came. Gradient-equivalents never stand
    without seconds.

    Args:
        results: Runs of one or more tasks.
        target: Which of a task's targets: 0 is the main one. Tasks with fewer targets are left out for
            others.

    Returns:
        Rows sorted by task and rank.
    """
    labels = results.labels()
    rows = []
    for task in results.tasks:
        own = results.select(task=task)
        targets = targets_of(own.runs)
        if target > 0 and target >= len(targets):
            continue
        goal = targets[target] if target < len(targets) else None
        shown = shown_metrics(own.runs)
        candidates = []
        for setting, runs in own.settings().items():
            row = _ranking_row(task, labels[setting], setting, runs, goal, *shown)
            candidates.append((_order(row, runs, goal), row))
        candidates.sort(key=lambda pair: pair[0])
        fast = sorted(
            row.seconds.value for _, row in candidates if row.timing == "exclusive" and row.seconds.value is not None
        )
        for place, (order, row) in enumerate(candidates, start=1):
            by_seconds = None
            if row.timing == "exclusive" and row.seconds.value is not None:
                by_seconds = 1 + fast.index(row.seconds.value)
            rows.append(dataclasses.replace(row, rank=place if order[0] < 3 else None, seconds_rank=by_seconds))
    return rows


def ranking_texts(rows: Sequence[RankingRow]) -> list[dict[str, str]]:
    """Returns the rows of one task as they are printed: column title to text, the same titles in every row.

    Args:
        rows: Rows of `ranking_table` of one task.
    """
    unit = seconds_title(rows)
    validation = next((row.validation_metric for row in rows if row.validation_metric), "validation")
    test = next((row.test_metric for row in rows if row.test_metric), "test")
    mixed = len({row.timing for row in rows}) > 1
    texts = []
    for row in rows:
        mark = f" ({row.timing})" if mixed and row.timing != "exclusive" else ""
        texts.append(
            {
                "#": DASH if row.rank is None else str(row.rank),
                "optimizer": row.label,
                "family": row.family or DASH,
                "escape": row.escape or DASH,
                "target reached": f"{row.reached}/{row.runs}" if row.target else DASH,
                "to target [gradient-equivalents]": str(row.gradient_equivalents),
                f"to target [{unit}]": f"{row.seconds}{mark}",
                "final train loss": number(row.train_loss),
                f"best {metric(validation)}": number(row.validation),
                metric(test): number(row.test),
                "steps": count(row.steps),
                f"total [{unit}]": f"{number(row.total_seconds)}{mark}",
                "status": row.status,
            }
        )
    return texts


def targets_of(runs: Sequence[Run]) -> list[Target]:
    """Returns the targets of a task, the main one first.

    Args:
        runs: Runs of one task.
    """
    return next((run.targets for run in runs if run.targets), [])


def shown_metrics(runs: Sequence[Run]) -> tuple[str | None, str, str | None]:
    """Returns the validation metric to show, whether "min" or "max" is better, and the test metric.

    The metric of a validation target comes first, then the first validation metric that is no loss, then the
    validation loss.

    Args:
        runs: Runs of one task.
    """
    chosen, mode = None, "min"
    for target in targets_of(runs):
        if target.metric.startswith("validation_"):
            chosen, mode = target.metric, target.mode
            break
    if chosen is None:
        row = next((run.evaluations[-1] for run in runs if run.evaluations), {})
        names = [name for name in row if name.startswith("validation_")]
        chosen = next((name for name in names if not name.endswith("loss")), names[0] if names else None)
        mode = direction(chosen or "loss")
    measured = {name for run in runs for name in run.status.get("summary") or {}}
    kind = (chosen or "validation_loss").removeprefix("validation_")
    test = next(
        (name for name in (f"best_test_{kind}", f"test_{kind}", "best_test_loss", "test_loss") if name in measured),
        None,
    )
    return chosen, mode, test


def direction(name: str) -> str:
    """Returns "min" if a metric of this name should be small, else "max", for metrics without a target.

    Args:
        name: Key of an evaluation row.
    """
    return "min" if name.endswith(("loss", "error", "perplexity", "mse", "mae")) else "max"


def timing_of(runs: Iterable[Run]) -> str:
    """Returns what the seconds of some runs are worth: their timing, "mixed", or "unknown".

    Args:
        runs: Any runs.
    """
    kinds = {run.timing or "unknown" for run in runs}
    return kinds.pop() if len(kinds) == 1 else ("mixed" if kinds else "unknown")


def timed_alone(rows: Iterable[RankingRow]) -> list[RankingRow]:
    """Returns the settings whose runs all had their machine alone: those whose seconds can be compared.

    Args:
        rows: Any rows.
    """
    return [row for row in rows if row.timing == "exclusive"]


def seconds_title(rows: Sequence[RankingRow]) -> str:
    """Returns the title of a column of seconds, with the kind of timing unless that is exclusive.

    Args:
        rows: The rows of the column.
    """
    kinds = {row.timing for row in rows}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    return "seconds" if kind == "exclusive" else f"seconds, {'timing ' if kind in ('mixed', 'unknown') else ''}{kind}"


def _ranking_row(
    task: str,
    label: str,
    setting: str,
    runs: list[Run],
    goal: Target | None,
    validation: str | None,
    mode: str,
    test: str | None,
) -> RankingRow:
    cost, reached = _time(runs, goal, "gradient_equivalents")
    seconds, _ = _time(runs, goal, "seconds")
    states = collections.Counter(run.state for run in runs)
    if len(states) == 1:
        status = next(iter(states))
    else:
        status = ", ".join(f"{amount} {state}" for state, amount in states.most_common())
    return RankingRow(
        task=task,
        rank=None,
        label=label,
        setting=setting,
        optimizer=runs[0].optimizer,
        family=runs[0].family,
        escape=runs[0].escape,
        target=goal,
        runs=len(runs),
        reached=reached,
        gradient_equivalents=cost,
        seconds=seconds,
        seconds_rank=None,
        train_loss=median(run.final("train_loss") for run in runs),
        validation_metric=validation,
        validation=median(run.best(validation, mode) for run in runs) if validation else None,
        test_metric=test.removeprefix("best_") if test else None,
        test=_median_test(runs, test),
        steps=median(run.end("steps") for run in runs),
        total_gradient_equivalents=median(run.end("gradient_equivalents") for run in runs),
        total_seconds=median(run.end("seconds") for run in runs),
        status=status,
        timing=timing_of(runs),
    )


def _median_test(runs: list[Run], metric_name: str | None) -> float | None:
    if metric_name is None:
        return None
    worst = math.inf if direction(metric_name) == "min" else -math.inf
    return median(((run.status.get("summary") or {}).get(metric_name) for run in runs), worst)


def _time(runs: list[Run], goal: Target | None, axis: str) -> tuple[Time, int]:
    waiting = any(run.state in ("running", "killed", "interrupted", "pending") for run in runs)
    estimate = None if goal is None else time_of_runs(runs, goal, axis)
    if goal is None or estimate is None:
        return Time(None, None, not waiting), 0
    reached = estimate.total - estimate.censored
    if math.isfinite(estimate.median):
        return Time(estimate.median, None, not waiting, estimate.low, estimate.high), reached
    bound = estimate.bound
    if bound is None:  # all died: how far they came is all that is known
        bound = max(run.end(axis) or 0.0 for run in runs)
    return Time(None, bound or None, not waiting), reached


def _order(row: RankingRow, runs: list[Run], goal: Target | None) -> tuple[float, ...]:
    """Sort key: class (0 reached by half, 1 by some or none, 3 no result), then the finer points."""
    near = math.inf
    if goal is not None:
        values = [value for run in runs if (value := run.best(goal.metric, goal.mode)) is not None]
        if values:
            near = statistics.median(values) * (-1 if goal.mode == "max" else 1)
    elif row.train_loss is not None and not math.isnan(row.train_loss):
        near = row.train_loss
    if row.gradient_equivalents.value is not None:
        return (0, row.gradient_equivalents.value, near)
    if row.reached == 0 and near == math.inf:
        return (3, 0, 0)
    return (1, -row.reached / row.runs, near)


def median(values: Iterable[Any], worst: float = math.inf) -> float | None:
    """Returns the median of the numbers among some values; None is left out.

    Args:
        values: Numbers and None.
        worst: What a NaN counts as, so that a diverged run does not make a setting look better.
    """
    numbers = [worst if math.isnan(value) else value for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    middle = statistics.median(numbers)
    return middle if math.isfinite(middle) else math.nan
