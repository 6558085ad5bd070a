"""``hybridopt status DIR``: how the runs below a directory stand."""

from __future__ import annotations

import argparse
import collections
import time
from pathlib import Path

from hybridopt.cli import console
from hybridopt.core.errors import StoreError

MANIFEST = "sweep.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory with runs below it")
    parser.add_argument("--watch", action="store_true", help="show it again every two seconds until all have ended")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Shows the table.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If there is no such directory.
    """
    if not options.directory.is_dir():
        raise StoreError(f"There is no directory {options.directory}. Give the one that a run or a sweep printed.")
    while True:
        going = show(options.directory)
        if not (options.watch and going):
            return 0
        time.sleep(2.0)


def show(directory: Path) -> int:
    """Prints how the runs stand.

    Args:
        directory: With runs below it.

    Returns:
        How many are running.

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
    console.line(", ".join(f"{count} {state}" for state, count in counts.items()))
    for problem in loaded.problems:
        console.error(problem)
    return counts["running"]
