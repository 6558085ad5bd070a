"""What is seen while runs are going on: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from hybridopt.cli import console
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.layout import PROVENANCE
from hybridopt.experiment.monitor import Monitor, Outcome, latest_rows

_MARKS = {"done": "done", "failed": "FAILED", "diverged": "diverged", "interrupted": "interrupted"}


def make_monitor() -> Monitor:
    """Returns what shows a sweep on this terminal, or in this file or pipe."""
    return LiveMonitor() if sys.stdout.isatty() else PlainMonitor()


def describe(directory: Path) -> str:
    """Returns one line about where a run stands now: step, cost, losses.

    Args:
        directory: The run directory.
    """
    return describe_rows(latest_rows(directory))


def describe_rows(rows: dict[str, dict[str, Any]]) -> str:
    """Returns one line about where a run stands, from its newest rows by type.

    Args:
        rows: As `hybridopt.experiment.monitor.latest_rows` returns them.
    """
    step, evaluation = rows.get("step", {}), rows.get("evaluation", {})
    newest = max((step, evaluation), key=lambda row: row.get("step", -1))
    if not newest:
        return "starting"
    texts = [
        f"step {newest['step']}",
        f"cost {newest['gradient_equivalents']:.1f}",
        f"{newest['seconds']:.1f} s",
    ]
    if "loss" in step:
        texts.append(f"loss {_short(step['loss'])}")
    for key, value in evaluation.items():
        if key.startswith("validation_"):
            texts.append(f"{key.replace('validation_', 'val ')} {_short(value)}")
    return "  ".join(texts)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


class PlainMonitor(Monitor):
    """One line when a job starts and one when it ends."""

    def begin(self, total: int, kept: list[Outcome], slots: int) -> None:
        """Says what is to be done."""
        self._total, self._count = total, 0
        console.line(_opening(total, kept, slots))

    def started(self, name: str, directory: Path) -> None:
        """Says that a job has started."""
        console.line(f"started   {name}")

    def note(self, text: str) -> None:
        """Says it."""
        console.line(text)

    def ended(self, outcome: Outcome) -> None:
        """Says how a job ended."""
        self._count += 1
        console.line(f"[{self._count}/{self._total}] {_closing(outcome)}")


class LiveMonitor(Monitor):
    """A line for each running job and one for the whole, redrawn in place; ended jobs scroll away above."""

    def begin(self, total: int, kept: list[Outcome], slots: int) -> None:
        """Starts drawing."""
        from rich.console import Console
        from rich.live import Live

        self._total, self._count, self._failed = total, 0, 0
        self._since = time.monotonic()
        self._running: dict[Path, tuple[str, float]] = {}
        self._goals: dict[Path, dict[str, Any]] = {}
        self._console = Console(highlight=False)
        self._console.print(_opening(total, kept, slots), markup=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._drawn = 0.0

    def started(self, name: str, directory: Path) -> None:
        """Adds a line."""
        self._running[directory] = name, time.monotonic()
        self._draw()

    def note(self, text: str) -> None:
        """Says it above the lines."""
        self._console.print(text, markup=False)

    def ended(self, outcome: Outcome) -> None:
        """Takes the line away and says how the job ended."""
        self._running.pop(outcome.directory, None)
        self._count += 1
        self._failed += outcome.status != "done"
        self._console.print(_closing(outcome), markup=False)
        self._draw()

    def tick(self) -> None:
        """Redraws a few times a second."""
        if time.monotonic() - self._drawn > 0.4:
            self._draw()

    def close(self) -> None:
        """Stops drawing."""
        live = getattr(self, "_live", None)
        if live is not None:
            live.stop()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for directory, (name, since) in self._running.items():
            elapsed = f"{time.monotonic() - since:4.0f} s"
            rows = latest_rows(directory)
            goal = self._goal(directory, rows.get("evaluation", {}))
            line = Text.assemble(describe_rows(rows), "  ", (goal, "green" if "reached" in goal else "dim"))
            grid.add_row(Text(name, style="bold"), Text(elapsed, style="dim"), line)
        passed = time.monotonic() - self._since
        whole = f"{self._count} of {self._total} runs ended"
        if self._failed:
            whole += f", {self._failed} not done"
        grid.add_row(Text(whole, style="cyan"), Text(f"{passed:4.0f} s", style="dim"), Text(""))
        self._live.update(grid, refresh=True)
        self._drawn = time.monotonic()

    def _goal(self, directory: Path, evaluation: dict[str, Any]) -> str:
        """Returns the main target of a run and whether it has been reached, as far as is known."""
        if directory not in self._goals:
            facts = (read_json(directory / PROVENANCE) or {}).get("task_facts")
            if facts is None:
                return ""
            self._goals[directory] = dict((facts.get("targets") or [{}])[0])
        goal = self._goals[directory]
        if not goal:
            return ""
        value = evaluation.get(goal["metric"])
        if isinstance(value, int | float):
            good = value <= goal["value"] if goal["mode"] == "min" else value >= goal["value"]
            goal["reached"] = goal.get("reached") or good
        sign = "<=" if goal["mode"] == "min" else ">="
        text = f"{goal['metric'].replace('validation_', 'val ')} {sign} {goal['value']:g}"
        return f"target {text} reached" if goal.get("reached") else f"target {text}"


class RunObserver:
    """Shows a run that goes on in this very process.

    Args:
        every: Seconds between two lines.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._last = 0.0
        self._rows: dict[str, dict[str, Any]] = {}

    def __call__(self, row: dict[str, Any]) -> None:
        """Takes notice of a row.

        Args:
            row: As stored.
        """
        if row["type"] == "event":
            if row["event"] == "target":
                self._show(f"target reached: {row['metric']} {'<=' if row['mode'] == 'min' else '>='} {row['value']:g}")
            return
        self._rows[row["type"]] = row
        if time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._show(describe_rows(self._rows))

    def close(self) -> None:
        """Shows where the run ended."""
        if self._rows:
            self._show(describe_rows(self._rows))

    def _show(self, text: str) -> None:
        console.line(f"  {text}")


class LiveObserver(RunObserver):
    """The same on a terminal: one line that is drawn over."""

    def _show(self, text: str) -> None:
        sys.stdout.write("\r\x1b[2K  " + text)
        if text.startswith("target"):
            sys.stdout.write("\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Shows where the run ended, on a line that stays."""
        super().close()
        sys.stdout.write("\n")


def make_observer() -> RunObserver:
    """Returns what shows a single run."""
    return LiveObserver(0.2) if sys.stdout.isatty() else RunObserver(5.0)


def _opening(total: int, kept: list[Outcome], slots: int) -> str:
    text = f"{total} runs to do" if total != 1 else "1 run to do"
    if total > 1 and slots > 1:
        text += f", {min(slots, total)} at a time"
    if kept:
        bad = sum(outcome.status != "done" for outcome in kept)
        text += f"; {len(kept)} there already"
        if bad:
            text += f" ({bad} of them not done: see below, retry=failed starts failed ones again)"
    return text


def _closing(outcome: Outcome) -> str:
    text = f"{_MARKS.get(outcome.status, outcome.status):9} {outcome.name}"
    detail = describe(outcome.directory) if outcome.status == "done" else outcome.reason
    return f"{text}  {detail}"
