"""Runs groups of jobs as lanes, each group in a fresh process, on the slots of a sweep."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.lanes_job import DECLINED, read_verdict
from hybridopt.experiment.layout import LOG, STATUS
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import (
    GRACE,
    Job,
    Slot,
    job_environment,
    settle,
    status_stamp,
    termination_interrupts,
)

_POLL = 0.1


@dataclasses.dataclass
class _Group:
    jobs: list[Job]
    slot: Slot
    process: subprocess.Popen[bytes]
    verdict: Path
    stamps: list[int]
    stop_at: float | None
    stopped: bool = False
    kill_at: float | None = None


class LanePool:
    """A queue of groups in front of slots.

    Args:
        slots: Where groups run.
        mode: ``auto``: a group measures whether lanes are worth it, and gives its jobs back if not; ``on``.
        time_limit: Seconds that a run may take; a group may take as many as its runs together. None: no limit.
        verdicts: Directory for the groups' decisions.
        monitor: Shows what happens.
    """

    def __init__(
        self, slots: Sequence[Slot], mode: str, time_limit: float | None, verdicts: Path, monitor: Monitor
    ) -> None:
        self._free = list(slots)
        self._mode, self._time_limit, self._verdicts, self._monitor = mode, time_limit, verdicts, monitor
        self._running: list[_Group] = []

    def run(self, groups: Sequence[Sequence[Job]]) -> list[Outcome]:
        """Does the groups, in order as slots become free.

        Args:
            groups: Jobs that may share a process.

        Returns:
            How the runs ended; those that were not done are missing.

        Raises:
            KeyboardInterrupt: On SIGINT or SIGTERM, after the running groups have saved themselves.
        """
        waiting = collections.deque(groups)
        outcomes: list[Outcome] = []
        with termination_interrupts():
            try:
                while waiting or self._running:
                    while waiting and self._free:
                        jobs = list(waiting.popleft())
                        try:
                            self._start(jobs, self._free[0])
                        except OSError as error:  # no space for its log, no memory for its process
                            self._monitor.note(f"{len(jobs)} runs one by one: lanes could not be started: {error}")
                        else:
                            del self._free[0]
                    self._watch(outcomes)
                    self._monitor.tick()
                    time.sleep(_POLL)
            except BaseException:
                self._stop_all()
                raise
        return outcomes

    def command(self, jobs: Sequence[Job], slot: Slot, verdict: Path) -> list[str]:
        """Returns the command line of a group.

        Args:
            jobs: The group.
            slot: Where it runs.
            verdict: File for its decision.
        """
        arguments = ["job", *(str(job.directory) for job in jobs), "--device", slot.device]
        arguments += ["--lanes", self._mode, "--verdict", str(verdict)]
        if jobs[0].pause_at is not None:
            arguments += ["--pause-at", repr(jobs[0].pause_at)]
        if slot.cores:
            arguments += ["--cores", ",".join(map(str, slot.cores))]
        return [sys.executable, "-m", "hybridopt", *arguments]

    def _start(self, jobs: list[Job], slot: Slot) -> None:
        names = "\n".join(str(job.directory) for job in jobs)
        verdict = self._verdicts / f"{hashlib.sha256(names.encode()).hexdigest()[:8]}.json"
        stamps = [status_stamp(job) for job in jobs]
        with open(jobs[0].directory / LOG, "ab") as log:
            process = subprocess.Popen(
                self.command(jobs, slot, verdict),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=job_environment(slot.threads),
                start_new_session=True,
            )
        limit = None if self._time_limit is None else time.monotonic() + self._time_limit * len(jobs)
        self._running.append(_Group(jobs, slot, process, verdict, stamps, limit))
        self._monitor.started(f"{jobs[0].name} and {len(jobs) - 1} more in lanes", jobs[0].directory)

    def _watch(self, outcomes: list[Outcome]) -> None:
        now = time.monotonic()
        for group in list(self._running):
            code = group.process.poll()
            if code is not None:
                self._running.remove(group)
                self._free.append(group.slot)
                if code == DECLINED:
                    self._monitor.note(f"{len(group.jobs)} runs one by one: {read_verdict(group.verdict)}")
                else:
                    limit = self._time_limit if group.stopped else None
                    for outcome in _settled(group, code, time_limit=limit):
                        outcomes.append(outcome)
                        self._monitor.ended(outcome)
            elif group.kill_at is not None and now > group.kill_at:
                group.process.kill()
            elif group.stop_at is not None and now > group.stop_at and not group.stopped:
                group.process.terminate()
                group.stopped, group.kill_at = True, now + GRACE

    def _stop_all(self) -> None:
        for group in self._running:
            with contextlib.suppress(OSError):
                group.process.terminate()
        deadline = time.monotonic() + GRACE
        for group in self._running:
            try:
                group.process.wait(max(0.1, deadline - time.monotonic()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                group.process.kill()
                group.process.wait()
            _settled(group, group.process.returncode, interrupted="killed by the launcher, which was stopped")
        self._running.clear()


def _settled(
    group: _Group, code: int, *, time_limit: float | None = None, interrupted: str | None = None
) -> list[Outcome]:
    """Returns how the runs of a group ended; those that had ended before were in time."""
    outcomes = []
    for job, stamp in zip(group.jobs, group.stamps, strict=True):
        ended = (read_json(job.directory / STATUS) or {}).get("status") in ("done", "diverged", "failed")
        limit = None if ended else time_limit
        silent = status_stamp(job) == stamp
        outcomes.append(settle(job, code, silent=silent, time_limit=limit, interrupted=interrupted))
    return outcomes
