"""What a cluster's node does: one run, exactly as the queue of the own machine does it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.layout import STATUS
from hybridopt.experiment.monitor import Monitor
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.slots import Job, Slot


@dataclasses.dataclass(frozen=True)
class RemoteJob:
    """A run to be done somewhere else. Its fields are all that travels: texts and numbers, no config and no code.

    Called on the node it starts ``hybridopt job`` as a process of its own, watches the time limit, and writes the
    status of a process that could not do so itself.

    Attributes:
        directory: The run directory, on a file system that the node shares.
        name: For people.
        device: ``cpu``, ``cuda`` or ``cuda:N``, as the node counts.
        threads: Threads of torch.
        cores: CPU cores to pin the process to; empty: not pinned.
        timing: ``exclusive``, or ``shared`` when other jobs may run on the machine at the same time.
        time_limit: Seconds after which it is stopped and counted as failed, or None.
        pause_at: Cost in gradient-equivalents at which it stops, or None.
        gpus: What ``CUDA_VISIBLE_DEVICES`` is to be: None leaves it as the cluster set it, "all" takes it away.
    """

    directory: str
    name: str
    device: str
    threads: int
    cores: tuple[int, ...] = ()
    timing: str = "shared"
    time_limit: float | None = None
    pause_at: float | None = None
    gpus: str | None = None

    def __call__(self) -> str:
        """Does the run, unless it is done already because it was submitted twice; returns its status."""
        known = (read_json(Path(self.directory) / STATUS) or {}).get("status")
        if known in ("done", "diverged"):
            return known
        if self.gpus == "all":
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        elif self.gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus
        slot = Slot(self.device, self.threads, self.cores)
        pool = Pool([slot], self.time_limit, Monitor(), timing=self.timing)
        (outcome,) = pool.run([Job(Path(self.directory), self.name, self.pause_at)])
        return outcome.status

    def checkpoint(self, *arguments: Any, **options: Any) -> Any:
        """Called by submitit before a job that was preempted or ran out of time is queued again: it goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def do(job: RemoteJob) -> str:
    """Does a run; for executors that want a function.

    Args:
        job: What to do.
    """
    return job()
