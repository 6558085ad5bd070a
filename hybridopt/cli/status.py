"""``hybridopt status DIR``: how the runs below a directory stand."""

from __future__ import annotations

import argparse
import collections
import datetime
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hybridopt.cli import console
from hybridopt.cli.directory import add_directory, given_directory
from hybridopt.core.errors import StoreError

MANIFEST = "sweep.json"
QUIET = 30.0
"""Seconds without a running job after which a sweep with missing runs counts as stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    add_directory(parser)
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds until all have ended")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Shows the table.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If there is no such directory.
    """
    directory = given_directory(options)
    seen = time.monotonic()
    while True:
        if options.watch and sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
        counts = show(directory)
        now = time.monotonic()
        if counts["running"]:
            seen = now
        # Between two jobs none is running for the seconds that the next one needs to start.
        waiting = counts["missing"] and now - seen < QUIET
        if not (options.watch and (counts["running"] or waiting)):
            return 0
        time.sleep(2.0)


def time_left(statuses: Iterable[Mapping[str, Any]], to_start: int, now: datetime.datetime) -> float | None:
    """Returns an estimate of the seconds until a sweep is over: every run takes what those that are done took.

    Args:
        statuses: Of the runs that are running or done, as in status.json.
        to_start: Runs that have not started.
        now: The time.

    Returns:
        None where nothing is running, or none is done yet.
    """
    took, going = [], []
    for status in statuses:
        started = _time(status.get("started"))
        finished = _time(status.get("finished"))
        if started is None:
            continue
        if status.get("status") == "running":
            going.append((now - started).total_seconds())
        elif finished is not None:
            took.append((finished - started).total_seconds())
    if not took or not going:
        return None
    each = sum(took) / len(took)
    left = sum(max(0.0, each - seconds) for seconds in going) + to_start * each
    return left / len(going)


def _time(text: Any) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None


def show(directory: Path) -> collections.Counter[str]:
    """Prints how the runs stand.

    Args:
        directory: With runs below it.

    Returns:
        How many runs there are in each state; missing ones belong to a sweep and have not started.

    Raises:
        StoreError: If there is no run.
    """
    from hybridopt import results
    from hybridopt.cli.progress import describe
    from hybridopt.experiment import jsonio

    loaded = results.load(directory)
    rows = []
    counts: collections.Counter[str] = collections.Counter()
    there = set()
    for run in loaded:
        there.add(run.directory.resolve())
        state = "missing" if run.state == "pending" else run.state
        counts[state] += 1
        reason = "" if state in ("done", "running") else str(run.status.get("reason") or "")
        if state == "killed":
            reason = "the process is gone; the same command goes on from the last checkpoint"
        elif state == "missing":
            reason = "not started"
        name = f"{run.optimizer}+{run.escape}" if run.escape else run.optimizer
        rows.append(
            [
                state,
                run.task,
                name,
                str(run.seed),
                "" if state == "missing" else describe(run.directory),
                reason,
            ]
        )
    for manifest in (
        sorted(directory.rglob(MANIFEST)) if not (directory / MANIFEST).is_file() else [directory / MANIFEST]
    ):
        for relative in ((jsonio.read_json(manifest) or {}).get("runs") or {}).values():
            if (manifest.parent / relative).resolve() not in there:
                counts["missing"] += 1
                task, name, seed = Path(relative).parts[-3:]
                rows.append(["missing", task, name, seed.partition("-")[0].removeprefix("s"), "", "not started"])
    if not rows:
        raise StoreError(f"There are no runs below {directory}. Give the directory that a run or a sweep printed.")
    console.table(["status", "task", "optimizer", "seed", "progress", "reason"], rows)
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    known = [run.status for run in loaded if run.state in ("done", "running")]
    left = time_left(known, counts["missing"], datetime.datetime.now(datetime.UTC))
    if left is not None:
        summary += f"; about {_span(left)} left"
    console.line(summary)
    for problem in loaded.problems:
        console.error(problem)
    return counts


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
