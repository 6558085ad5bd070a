"""Runs jobs as fresh processes, one run each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.processes import ProcessQueue, Work
from hybridopt.experiment.slots import Job, Slot


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
        self._queue = ProcessQueue(slots, time_limit, monitor)
        self._timing = timing or ("exclusive" if len(slots) == 1 else "shared")

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Does the jobs, in order as slots become free, and returns how each ended.

        Args:
            jobs: What to do.

        Raises:
            KeyboardInterrupt: On SIGINT or SIGTERM, after the running jobs have saved themselves.
        """
        return self._queue.run([Work([job], job.name, lambda slot, job=job: self.command(job, slot)) for job in jobs])

    def command(self, job: Job, slot: Slot) -> list[str]:
        """Returns the command line of a job.

        Args:
            job: The job.
            slot: Where it runs.
        """
        arguments = ["job", str(job.directory), "--timing", self._timing, *job.options(slot)]
        return [sys.executable, "-m", "hybridopt", *arguments]
