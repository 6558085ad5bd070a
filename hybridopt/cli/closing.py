"""What is said when runs are over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.cli import console
from hybridopt.core import HybridoptError
from hybridopt.experiment.ending import KILLED
from hybridopt.experiment.monitor import Outcome

_FIXES = {
    "diverged": "Lower the learning rate (optimizer.lr=...), or clip the gradient (optimizer.clip_norm=1).",
    "failed": "The whole trace is in run.log; --debug shows it here.",
}


def close_run(outcome: Outcome, status: Mapping[str, Any]) -> int:
    """Says how a single run ended, and returns the exit code.

    Args:
        outcome: Of the run.
        status: Content of its status.json.

    Raises:
        KeyboardInterrupt: If the run was interrupted, so that the command ends as interrupted too.
    """
    if outcome.status == "done":
        if not outcome.fresh:
            console.line(f"{outcome.name} is done already: {outcome.directory}")
        for entry in status.get("targets") or []:
            sign = "<=" if entry["mode"] == "min" else ">="
            goal = f"{entry['metric']} {sign} {entry['value']:g}"
            if entry["reached"]:
                cost, seconds = entry["gradient_equivalents"], entry["seconds"]
                console.line(f"target {goal}: reached at step {entry['step']}, cost {cost:.1f}, {seconds:.1f} s")
            else:
                console.line(f"target {goal}: not reached")
        for key, value in (status.get("summary") or {}).items():
            console.line(f"{key:24} {value:.6g}" if isinstance(value, float) else f"{key:24} {value}")
        return 0
    if outcome.status == "interrupted":
        if not outcome.reason.startswith(KILLED):
            raise KeyboardInterrupt
        console.error(f"The run {outcome.name} was {outcome.reason}. Its directory is {outcome.directory}")
        return 1
    console.error(
        f"The run {outcome.name} {'ended as ' if outcome.fresh else 'is there already and '}{outcome.status}: "
        f"{outcome.reason}. {_FIXES[outcome.status]} Its directory is {outcome.directory}"
    )
    return 2 if outcome.status == "diverged" else 1


def close_sweep(directory: Path, outcomes: Sequence[Outcome]) -> int:
    """Prints the ranking, writes the report, lists what is not done, and returns the exit code.

    Args:
        directory: Of the sweep.
        outcomes: How its runs stand.
    """
    from hybridopt import results
    from hybridopt.report import ranking_table, ranking_texts, standing

    loaded = results.load(directory)
    rows = ranking_table(loaded)
    for task, group in itertools.groupby(rows, key=lambda row: row.task):
        texts = ranking_texts(list(group))
        # What does not fit a terminal is in the report.
        columns = [name for name in texts[0] if not name.startswith(("steps", "total")) and _tells(texts, name)]
        cells = [[text[name] for name in columns] for text in texts]
        console.table([name.replace("gradient-equivalents", "cost") for name in columns], cells, title=task)
        console.line(goal_of(loaded, task))
    undone = [outcome for outcome in outcomes if outcome.status != "done"]
    for outcome in undone:
        console.line(f"{outcome.status}: {outcome.name}: {outcome.reason} ({outcome.directory})")
    console.line(f"{len(outcomes) - len(undone)} of {len(outcomes)} runs are done.")
    # The runs are what counts: a report that cannot be written does not take the ranking away.
    try:
        write(directory)
    except HybridoptError as error:
        console.error(str(error))
        return 2
    console.line(standing(loaded))
    return 1 if undone else 0


def write(directory: Path, out: Path | None = None) -> None:
    """Writes the report of a directory and says where it is.

    Args:
        directory: Of the runs.
        out: Where to; None: the same directory.
    """
    from hybridopt.report import write_report

    paths = write_report(directory, out)
    console.line(f"report: {paths.html}")


def goal_of(loaded: Any, task: str) -> str:
    """Returns what to say below a task's ranking: its target, its trivial loss, the unit of cost.

    Args:
        loaded: The results.
        task: Name of the task.
    """
    for run in loaded.select(task=task):
        facts = run.task_facts
        if facts:
            target = f"target: {run.targets[0]}" if run.targets else "no target"
            trivial = facts.get("trivial_loss")
            known = "" if trivial is None else f"; trivial predictor's loss: {trivial:.4g}"
            return f"{target}{known}; cost in gradient-equivalents"
    return "cost in gradient-equivalents"


def _tells(texts: Sequence[Mapping[str, str]], column: str) -> bool:
    """Whether a column has anything to say: the escape of runs without one has not."""
    return column not in ("escape", "family") or any(text[column] != "–" for text in texts)
