"""How a job ended, whether or not its process could say so itself."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from hybridopt.core import HybridoptError
from hybridopt.experiment.jsonio import read_json, utc_now
from hybridopt.experiment.layout import STATUS
from hybridopt.experiment.monitor import Outcome, latest_rows
from hybridopt.experiment.slots import Job
from hybridopt.experiment.store import RunStore

KILLED = "killed by signal"
"""How the reason of a run begins whose process was killed from outside."""

UNWRITTEN = 74
"""Exit code of a job whose disk is full (EX_IOERR of sysexits.h): perhaps not even its status could be written."""

HELD = 75
"""Exit code of a job whose run another process is writing (EX_TEMPFAIL of sysexits.h) and gives its status."""


def settle(
    job: Job, code: int, *, silent: bool = False, time_limit: float | None = None, interrupted: str | None = None
) -> Outcome:
    """Returns how a job ended, and writes the status of one that could not do so itself.

    Args:
        job: The job.
        code: Exit code of its process, negative for a signal.
        silent: Whether the process wrote no status, so that the one there is from an earlier attempt.
        time_limit: The limit that it was stopped for, or None; a run that had come to its end by then was in time.
        interrupted: Why its end is no failure, unless it wrote how it ended itself: the launcher stopped it.
    """
    if code == HELD:
        reason = "another process is doing it: start the same command again once that has ended"
        return Outcome(job.directory, job.name, "interrupted", reason)
    known = read_json(job.directory / STATUS) or {}
    status = None if silent else known.get("status")
    if time_limit is not None and status not in ("done", "diverged", "failed"):
        status, reason = "failed", f"took longer than launcher.time_limit={time_limit:g} s"
    elif status in ("done", "failed", "diverged", "interrupted"):
        return Outcome(job.directory, job.name, status, str(known.get("reason", "")))
    elif interrupted is not None:
        status, reason = "interrupted", interrupted
    elif code == UNWRITTEN:
        status = "interrupted"
        reason = "the disk is full: free some space and start the same command again"
    else:
        # A kill from outside says nothing about the run: like an interrupted one it goes on from its checkpoint.
        status, reason = "interrupted" if code < 0 else "failed", _describe(code)
    rows = latest_rows(job.directory)
    last = max(rows.values(), key=lambda row: row.get("step", 0), default={})
    reached = {"steps": last.get("step", 0)} | {
        key: last[key] for key in ("epoch", "gradient_equivalents", "seconds") if key in last
    }
    error = None if status == "interrupted" else {"type": "Killed", "message": reason}
    entry: dict[str, Any] = {**known, **reached, "status": status, "reason": reason, "error": error}
    entry["finished"] = utc_now()
    # A directory that cannot be written has no better status than the one returned here.
    with contextlib.suppress(HybridoptError), RunStore(job.directory) as store:
        store.write_status(entry)
    return Outcome(job.directory, job.name, status, reason)


def status_stamp(job: Job) -> int:
    """Returns when a run's status was written last, 0 if never: whether a process has written one since.

    Args:
        job: The job.
    """
    try:
        return (job.directory / STATUS).stat().st_mtime_ns
    except OSError:
        return 0


def _describe(code: int) -> str:
    if code >= 0:
        return f"the process ended with exit code {code} before the run did; see run.log"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = "; often that is the system running out of memory" if -code == signal.SIGKILL else ""
    return f"{KILLED} {-code} ({name}){hint}; the same command goes on from the last checkpoint"
