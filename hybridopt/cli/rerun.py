"""``hybridopt rerun DIR --timing``: runs again, one at a time, for seconds that can be compared."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybridopt.cli import console
from hybridopt.cli.directory import add_directory, given_directory
from hybridopt.core.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from hybridopt.results import Run

_ABOUT = """\
Seconds of runs that shared their machine (several slots, lanes) say little. This does the runs below DIR again, one at
a time, each in a fresh process, and keeps them in RUN_DIR/timing; the runs themselves are not touched. Where a replay
gave the same numbers as the run, `hybridopt report` and `hybridopt.results` use its seconds, and call them exclusive;
where it did not, that is said here and in the report, and its seconds are not used. (Runs in lanes or on a GPU do not
promise equal bits: of them the same steps, evaluations and costs are asked for.)

A run that was ended by budget.seconds is done again for as many steps as it had. Runs that had the machine alone
already, have not ended, or failed, are passed over. Stopped or killed, the same command goes on; called again, it does
nothing. Let nothing else run on the machine meanwhile."""

_EXAMPLES = """\
examples:
  hybridopt rerun outputs/quickstart --timing
  hybridopt rerun outputs/quickstart --timing task=digits_cnn optimizer=adam,lbfgs seed=0,1,2
  hybridopt rerun outputs/sweep --timing optimizer.lr=1e-3 schedule=cosine"""


def start(arguments: Sequence[str], *, debug: bool) -> int:
    """Parses the command's arguments, in any order, and does the runs again.

    Args:
        arguments: All after ``rerun``.
        debug: Whether to show traces.

    Returns:
        The exit code: 1 if a replay has not ended, or gave other numbers than its run.

    Raises:
        ConfigError: If it is not said what for, or a filter is wrong.
        StoreError: If there are no such runs, or they cannot be done again here and now.
    """
    parser = argparse.ArgumentParser(
        prog="hybridopt rerun",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_directory(parser)
    parser.add_argument("--timing", action="store_true", help="what for: seconds; there is no other use yet")
    parser.add_argument("--again", action="store_true", help="also replays that are done, from the start")
    parser.add_argument(
        "filters",
        nargs="*",
        default=[],  # without it argparse calls them required where DIR is missing
        metavar="KEY=VALUE",
        help="only these runs: task, optimizer, escape, seed, config keys",
    )
    try:
        options = parser.parse_intermixed_args(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    if not options.timing:
        raise ConfigError(
            "Say what to run again for: hybridopt rerun DIR --timing. (Runs that failed are started again by the "
            "command that made them, with retry=failed.)"
        )
    return _replay(given_directory(options), options.filters, again=options.again)


def _replay(directory: Path, filters: Sequence[str], *, again: bool) -> int:
    from hybridopt import results
    from hybridopt.cli.closing import write
    from hybridopt.cli.progress import make_monitor
    from hybridopt.experiment.rerun import rerun
    from hybridopt.results.selection import choose

    loaded = results.load(directory)
    if not loaded.runs:
        raise StoreError(f"There are no runs below {directory}. Give the directory that `hybridopt run` printed.")
    chosen, passed_over = [], {}
    for run in choose(loaded, filters):
        reason = _unfit(run)
        if reason is None:
            chosen.append(run)
        else:
            passed_over.setdefault(reason, []).append(run)
    for reason, runs in passed_over.items():
        console.line(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} passed over: {reason}")
    if not chosen:
        console.line("There is nothing to do again.")
        return 0
    chosen.sort(key=lambda run: (run.seed or 0, run.task, run.optimizer))  # a drift of the machine meets all methods
    names = {run.directory: _name(run) for run in chosen}
    outcomes = rerun(names, directory, make_monitor(), again=again)
    undone = [outcome for outcome in outcomes if outcome.status not in ("done", "diverged")]
    for outcome in undone:
        console.error(f"{outcome.status}: {outcome.name}: {outcome.reason} ({outcome.directory})")
    wanted = set(names)
    replayed = [run for run in results.load(directory) if run.directory in wanted and run.replay is not None]
    _table(replayed)
    different = [run for run in replayed if run.replay.difference is not None]
    for run in different:
        console.error(
            f"THE REPLAY OF {_name(run)} IS NOT THE SAME RUN, so its seconds are not used: {run.replay.difference}. "
            f"Compare {run.directory} with what its folder timing holds: versions and machine are in provenance.json."
        )
    write(directory)
    return 1 if undone or different else 0


def _unfit(run: Run) -> str | None:
    """Returns why there is no use in doing a run again, None if there is."""
    from hybridopt.experiment.layout import section_name
    from hybridopt.experiment.rerun import ended_by_seconds

    if run.state not in ("done", "diverged"):
        return f"{run.state}; only runs that ended by themselves are timed"
    budget = {**(run.config.get("budget") or {}), "seconds": None}
    limited = any(budget.get(name) is not None for name in ("epochs", "steps", "gradient_equivalents"))
    if ended_by_seconds(run.status) and limited and section_name(run.config.get("schedule")) not in (None, "none"):
        return (
            "ended by budget.seconds within a schedule; time them in a sweep with launcher.slots=1 and another out=DIR"
        )
    if run.replay is None and run.timing == "exclusive":
        return "timed already: they had the machine alone"
    return None


def _name(run: Run) -> str:
    return f"{run.task}/{run.directory.parent.name}/s{run.seed}"


def _table(replayed: Sequence[Run]) -> None:
    rows = []
    for run in replayed:
        before, now = run.status.get("seconds"), run.replay.status.get("seconds")
        said = "same numbers" if run.replay.difference is None else "OTHER NUMBERS"
        if run.replay.difference is None and run.replay.rounding:
            said = f"same steps, losses to {run.replay.rounding:.1g}"
        known = str(run.provenance.get("timing") or "unknown")
        rows.append([_name(run), f"{before:.3g} ({known})", f"{now:.3g}", f"{before / now:.2f}" if now else "", said])
    console.table(["run", "seconds then", "seconds alone", "ratio", "replay"], rows)
