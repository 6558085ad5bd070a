"""Runs groups of jobs as lanes, each group in a fresh process, on the slots of a sweep."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from hybridopt.experiment.lanes_job import DECLINED, read_verdict
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.processes import ProcessQueue, Work
from hybridopt.experiment.slots import Job, Slot


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
        self._queue = ProcessQueue(slots, time_limit, monitor)
        self._mode, self._verdicts = mode, verdicts

    def run(self, groups: Sequence[Sequence[Job]]) -> list[Outcome]:
        """Does the groups, in order as slots become free.

        Args:
            groups: Jobs that may share a process.

        Returns:
            How the runs ended; those that were not done are missing.

        Raises:
            KeyboardInterrupt: On SIGINT or SIGTERM, after the running groups have saved themselves.
        """
        return self._queue.run([self._work(jobs) for jobs in groups])

    def command(self, jobs: Sequence[Job], slot: Slot, verdict: Path) -> list[str]:
        """Returns the command line of a group.

        Args:
            jobs: The group.
            slot: Where it runs.
            verdict: File for its decision.
        """
        arguments = ["job", *(str(job.directory) for job in jobs), "--lanes", self._mode, "--verdict", str(verdict)]
        return [sys.executable, "-m", "hybridopt", *arguments, *jobs[0].options(slot)]

    def _work(self, jobs: Sequence[Job]) -> Work:
        names = "\n".join(str(job.directory) for job in jobs)
        verdict = self._verdicts / f"{hashlib.sha256(names.encode()).hexdigest()[:8]}.json"

        def given_back(end: int | OSError) -> str | None:
            if isinstance(end, OSError):
                return f"{len(jobs)} runs one by one: lanes could not be started: {end}"
            return f"{len(jobs)} runs one by one: {read_verdict(verdict)}" if end == DECLINED else None

        title = f"{jobs[0].name} and {len(jobs) - 1} more in lanes"
        return Work(jobs, title, lambda slot: self.command(jobs, slot, verdict), given_back)
