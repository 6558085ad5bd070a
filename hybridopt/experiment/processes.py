"""Processes on a queue of slots, each doing one job or several; no end of a process is the end of the queue."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import signal
import site
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import hybridopt
from hybridopt.experiment.ending import settle, status_stamp
from hybridopt.experiment.interrupt import PARENT
from hybridopt.experiment.layout import LOG
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.slots import Job, Slot

GRACE = 20.0
"""Seconds that a process has to save its runs once it was asked to stop."""

_POLL = 0.1


@dataclasses.dataclass(frozen=True)
class Work:
    """What one process does.

    Attributes:
        jobs: The runs; the first one's ``run.log`` takes what the process says.
        title: For people.
        command: Command line for a slot.
        given_back: Called with the exit code, or with why the process could not be started: why the runs are left to
            somebody else, for people; None: they are not.
    """

    jobs: Sequence[Job]
    title: str
    command: Callable[[Slot], list[str]]
    given_back: Callable[[int | OSError], str | None] = lambda end: None


@dataclasses.dataclass
class _Process:
    work: Work
    slot: Slot
    process: subprocess.Popen[bytes]
    stamps: list[int]
    stop_at: float | None
    stopped: bool = False
    kill_at: float | None = None

    def settle(self, *, time_limit: float | None = None, interrupted: str | None = None) -> list[Outcome]:
        """Returns how its runs ended."""
        outcomes = []
        for job, stamp in zip(self.work.jobs, self.stamps, strict=True):
            silent = status_stamp(job) == stamp
            code = self.process.returncode
            outcomes.append(settle(job, code, silent=silent, time_limit=time_limit, interrupted=interrupted))
        return outcomes


class ProcessQueue:
    """A queue of work in front of slots.

    Args:
        slots: Where processes run, one at a time on each.
        time_limit: Seconds that a run may take, after which it is stopped and counts as failed; a process may take as
            many as its runs together. None: no limit.
        monitor: Shows what happens.
    """

    def __init__(self, slots: Sequence[Slot], time_limit: float | None, monitor: Monitor) -> None:
        self._free = list(slots)
        self._time_limit = time_limit
        self._monitor = monitor
        self._running: list[_Process] = []

    def run(self, work: Sequence[Work]) -> list[Outcome]:
        """Does the work, in order as slots become free.

        Args:
            work: What to do.

        Returns:
            How the runs ended; those that were given back are missing.

        Raises:
            KeyboardInterrupt: On SIGINT or SIGTERM, after the running jobs have saved themselves.
        """
        waiting = collections.deque(work)
        outcomes: list[Outcome] = []
        with termination_interrupts():
            try:
                while waiting or self._running:
                    while waiting and self._free:
                        outcomes += self._start(waiting.popleft())
                    outcomes += self._watch()
                    self._monitor.tick()
                    time.sleep(_POLL)
            except BaseException:
                self._stop_all()
                raise
        return outcomes

    def _start(self, work: Work) -> list[Outcome]:
        """Starts a process on the first free slot; returns the outcomes of runs that it could not be started for."""
        slot = self._free[0]
        stamps = [status_stamp(job) for job in work.jobs]
        try:
            with open(work.jobs[0].directory / LOG, "ab") as log:
                # Its own session: a Ctrl-C reaches this process alone, which then asks its jobs to save themselves.
                process = subprocess.Popen(
                    work.command(slot),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=job_environment(slot.threads),
                    start_new_session=True,
                )
        except OSError as error:  # no space for its log, no memory for its process
            if self._given_back(work, error):
                return []
            reason = f"could not be started: {error}"
            return self._told([Outcome(job.directory, job.name, "interrupted", reason) for job in work.jobs])
        del self._free[0]
        limit = None if self._time_limit is None else time.monotonic() + self._time_limit * len(work.jobs)
        self._running.append(_Process(work, slot, process, stamps, limit))
        self._monitor.started(work.title, work.jobs[0].directory)
        return []

    def _watch(self) -> list[Outcome]:
        """Looks after the processes; returns the outcomes of those that ended."""
        now = time.monotonic()
        outcomes: list[Outcome] = []
        for running in list(self._running):
            code = running.process.poll()
            if code is not None:
                self._running.remove(running)
                self._free.append(running.slot)
                limit = self._time_limit if running.stopped else None
                if not self._given_back(running.work, code):
                    outcomes += self._told(running.settle(time_limit=limit))
            elif running.kill_at is not None and now > running.kill_at:
                running.process.kill()
            elif running.stop_at is not None and now > running.stop_at and not running.stopped:
                running.process.terminate()
                running.stopped, running.kill_at = True, now + GRACE
        return outcomes

    def _given_back(self, work: Work, end: int | OSError) -> bool:
        reason = work.given_back(end)
        if reason is not None:
            self._monitor.note(reason)
        return reason is not None

    def _told(self, outcomes: list[Outcome]) -> list[Outcome]:
        for outcome in outcomes:
            self._monitor.ended(outcome)
        return outcomes

    def _stop_all(self) -> None:
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
            # Killed because it did not stop in time: it goes on from its checkpoint, like the others.
            running.settle(interrupted="killed by the launcher, which was stopped")
        self._running.clear()


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
