"""Runs jobs as fresh processes on a queue of slots; no end of a process is the end of the queue."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import signal
import site
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import hybridopt
from hybridopt.core import HybridoptError
from hybridopt.experiment.interrupt import PARENT
from hybridopt.experiment.jsonio import read_json, utc_now
from hybridopt.experiment.layout import LOG, STATUS
from hybridopt.experiment.monitor import Monitor, Outcome, latest_rows
from hybridopt.experiment.store import RunStore

GRACE = 20.0
"""Seconds that a job has to save itself once it was asked to stop."""

_POLL = 0.1


KILLED = "killed by signal"
"""How the reason of a run begins whose process was killed from outside."""

UNWRITTEN = 74
"""Exit code of a job whose disk is full (EX_IOERR of sysexits.h): perhaps not even its status could be written."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place where one job at a time runs.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        threads: Threads of torch.
        cores: CPU cores that its jobs are pinned to; empty: not pinned.
    """

    device: str
    threads: int
    cores: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be done.

    Attributes:
        directory: Its run directory, with ``config.yaml`` in it.
        name: For people.
        pause_at: Cost in gradient-equivalents at which it stops, to go on another time; None: it does not.
    """

    directory: Path
    name: str
    pause_at: float | None = None


@dataclasses.dataclass
class _Running:
    job: Job
    slot: Slot
    process: subprocess.Popen[bytes]
    stamp: int
    stop_at: float | None
    stopped: bool = False
    kill_at: float | None = None


class Pool:
    """A queue of jobs in front of slots. With more than one slot the runs are marked ``timing: shared``.

    Args:
        slots: Where jobs run.
        time_limit: Seconds after which a job is stopped and counted as failed, or None.
        monitor: Shows what happens.
        timing: ``exclusive`` or ``shared``, for who knows more than the number of slots tells.
    """

    def __init__(
        self, slots: Sequence[Slot], time_limit: float | None, monitor: Monitor, *, timing: str | None = None
    ) -> None:
        self._free = list(slots)
        self._timing = timing or ("exclusive" if len(slots) == 1 else "shared")
        self._time_limit = time_limit
        self._monitor = monitor
        self._running: list[_Running] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Does the jobs, in order as slots become free, and returns how each ended.

        Args:
            jobs: What to do.

        Raises:
            KeyboardInterrupt: On SIGINT or SIGTERM, after the running jobs have saved themselves.
        """
        waiting = collections.deque(jobs)
        outcomes: list[Outcome] = []
        with termination_interrupts():
            try:
                while waiting or self._running:
                    while waiting and self._free:
                        job = waiting.popleft()
                        try:
                            self._start(job, self._free[0])
                        except OSError as error:  # no space for its log, no memory for its process
                            outcome = Outcome(job.directory, job.name, "interrupted", f"could not be started: {error}")
                            outcomes.append(outcome)
                            self._monitor.ended(outcome)
                        else:
                            del self._free[0]
                    self._watch(outcomes)
                    self._monitor.tick()
                    time.sleep(_POLL)
            except BaseException:
                self._stop_all(outcomes)
                raise
        return outcomes

    def command(self, job: Job, slot: Slot) -> list[str]:
        """Returns the command line of a job.

        Args:
            job: The job.
            slot: Where it runs.
        """
        arguments = ["job", str(job.directory), "--timing", self._timing, "--device", slot.device]
        if job.pause_at is not None:
            arguments += ["--pause-at", repr(job.pause_at)]
        if slot.cores:
            arguments += ["--cores", ",".join(map(str, slot.cores))]
        return [sys.executable, "-m", "hybridopt", *arguments]

    def _start(self, job: Job, slot: Slot) -> None:
        stamp = status_stamp(job)
        with open(job.directory / LOG, "ab") as log:
            # Its own session: a Ctrl-C reaches this process alone, which then asks its jobs to save themselves.
            process = subprocess.Popen(
                self.command(job, slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(slot.threads),
                start_new_session=True,
            )
        limit = None if self._time_limit is None else time.monotonic() + self._time_limit
        self._running.append(_Running(job, slot, process, stamp, limit))
        self._monitor.started(job.name, job.directory)

    def _watch(self, outcomes: list[Outcome]) -> None:
        now = time.monotonic()
        for running in list(self._running):
            code = running.process.poll()
            if code is not None:
                self._running.remove(running)
                self._free.append(running.slot)
                limit = self._time_limit if running.stopped else None
                outcome = settle(running.job, code, silent=status_stamp(running.job) == running.stamp, time_limit=limit)
                outcomes.append(outcome)
                self._monitor.ended(outcome)
            elif running.kill_at is not None and now > running.kill_at:
                running.process.kill()
            elif running.stop_at is not None and now > running.stop_at and not running.stopped:
                running.process.terminate()
                running.stopped, running.kill_at = True, now + GRACE

    def _stop_all(self, outcomes: list[Outcome]) -> None:
        for running in self._running:
            with contextlib.suppress(OSError):
                running.process.terminate()
        deadline = time.monotonic() + GRACE
        for running in self._running:
            try:
                running.process.wait(max(0.1, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                running.process.kill()
                running.process.wait()
        for running in self._running:
            code = running.process.returncode
            # Killed because it did not stop in time: it goes on from its checkpoint, like the others.
            silent = status_stamp(running.job) == running.stamp
            reason = "killed by the launcher, which was stopped"
            outcomes.append(settle(running.job, code, silent=silent, interrupted=reason))
        self._running.clear()


def settle(
    job: Job, code: int, *, silent: bool = False, time_limit: float | None = None, interrupted: str | None = None
) -> Outcome:
    """Returns how a job ended, and writes the status of one that could not do so itself.

    Args:
        job: The job.
        code: Exit code of its process, negative for a signal.
        silent: Whether the process wrote no status, so that the one there is from an earlier attempt.
        time_limit: The limit that it was stopped for, or None.
        interrupted: Why its end is no failure, unless it wrote how it ended itself: the launcher stopped it.
    """
    known = read_json(job.directory / STATUS) or {}
    status = None if silent else known.get("status")
    if time_limit is not None and status != "done":
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


def job_environment(threads: int) -> dict[str, str]:
    """Returns the environment variables of a job that this process starts.

    Args:
        threads: Threads that its libraries may use.
    """
    environment = {**os.environ, PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(threads)
    root = str(Path(hybridopt.__file__).resolve().parents[1])
    if root not in {*site.getsitepackages(), site.getusersitepackages()}:
        # A checkout that is not installed: the job must find the same package from any directory.
        paths = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = root + (os.pathsep + paths if paths else "")
    return environment


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """Context in which SIGTERM ends the launcher as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
