"""Runs jobs through a cluster's own queue: SLURM or local processes by submitit, or Ray.

The run directories, their locks, checkpoints and statuses are those of the local queue; only who starts
``hybridopt job RUN_DIR`` differs. The options have the names, types and defaults of Hydra's launcher plugins. Their
`launch` is not used: it waits for the jobs in order, ends at the first one that failed, cannot stop the others, and
sends pickles of the whole Hydra application to the nodes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.core import ConfigError, need, suggest
from hybridopt.experiment.cluster_queues import Ray, Submitit, inherited_environment
from hybridopt.experiment.config import Launcher
from hybridopt.experiment.ending import settle, status_stamp
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.processes import GRACE, termination_interrupts
from hybridopt.experiment.remote import RemoteJob
from hybridopt.experiment.slots import Job, Slot

_POLL = 0.2
_CANCELLED = "its job was cancelled with the launcher"


class Cluster:
    """Hands jobs to a cluster and waits for them; no end of a job is the end of the others.

    Args:
        launcher: Which cluster, with its options, as `check_launcher` accepts them.
        slots: Where jobs run at the same time on this machine; for a cluster that queues them itself, what each gets.
        folder: Directory for the cluster's own files.
        monitor: Shows what happens.
    """

    def __init__(self, launcher: Launcher, slots: Sequence[Slot], folder: Path, monitor: Monitor) -> None:
        self._launcher, self._slots, self._monitor = launcher, list(slots), monitor
        self._folder = folder
        self._running: dict[Path, _Submitted] = {}

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Does the jobs and returns how each ended.

        Args:
            jobs: What to do.

        Raises:
            ConfigError: If the cluster refuses them.
            KeyboardInterrupt: On SIGINT or SIGTERM, after the jobs were cancelled and have saved themselves.
        """
        queued = self._launcher.elsewhere  # by the cluster: all are submitted at once
        free = self._slots * len(jobs) if queued else list(self._slots)
        waiting = collections.deque(jobs)
        outcomes: list[Outcome] = []
        with termination_interrupts(), self._executor(len(jobs)) as executor:
            try:
                while waiting or self._running:
                    batch = [(waiting.popleft(), free.pop(0)) for _ in range(min(len(free), len(waiting)))]
                    if batch:
                        self._submit(executor, batch)
                    free += self._watch(outcomes)
                    self._monitor.tick()
                    time.sleep(_POLL)
            except BaseException:
                self._cancel_all(outcomes)
                raise
        return outcomes

    def remote_job(self, job: Job, slot: Slot) -> RemoteJob:
        """Returns what travels to the node.

        Args:
            job: The job.
            slot: What it gets.
        """
        gpus = None
        if self._launcher.name == "submitit_local":  # submitit hides the GPUs that it was not asked for
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        alone = len(self._slots) == 1 and not self._launcher.elsewhere
        return RemoteJob(
            str(job.directory.resolve()),
            job.name,
            slot.device,
            slot.threads,
            slot.cores,
            "exclusive" if alone or self._launcher.options.get("exclusive") else "shared",
            self._launcher.time_limit,
            job.pause_at,
            gpus,
        )

    @contextlib.contextmanager
    def _executor(self, count: int) -> Iterator[Any]:
        options = complete_options(self._launcher)
        if self._launcher.name == "ray":
            with Ray(options, self._slots[0]) as executor:
                yield executor
        else:
            yield Submitit(self._launcher.name.removeprefix("submitit_"), options, self._folder, self._slots[0])

    def _submit(self, executor: Any, batch: Sequence[tuple[Job, Slot]]) -> None:
        stamps = [status_stamp(job) for job, _ in batch]
        with inherited_environment():
            handles = executor.submit([self.remote_job(job, slot) for job, slot in batch])
        for (job, slot), before, handle in zip(batch, stamps, handles, strict=True):
            self._running[job.directory] = _Submitted(job, slot, handle, before)

    def _watch(self, outcomes: list[Outcome]) -> list[Slot]:
        """Looks after the jobs; returns the slots of those that ended."""
        freed = []
        for submitted in list(self._running.values()):
            if not submitted.seen and status_stamp(submitted.job) != submitted.stamp:
                submitted.seen = True
                self._monitor.started(submitted.job.name, submitted.job.directory)
            ending = submitted.handle.ending()
            if ending is None:
                continue
            del self._running[submitted.job.directory]
            freed.append(submitted.slot)
            outcome = submitted.settle(f"the cluster ended its job before the run did ({ending})")
            outcomes.append(outcome)
            self._monitor.ended(outcome)
        return freed

    def _cancel_all(self, outcomes: list[Outcome]) -> None:
        for submitted in self._running.values():
            with contextlib.suppress(Exception):
                submitted.handle.cancel()
        deadline = time.monotonic() + GRACE + 5
        for submitted in self._running.values():
            with contextlib.suppress(KeyboardInterrupt):
                while submitted.handle.ending() is None and time.monotonic() < deadline:
                    time.sleep(_POLL)
            outcomes.append(submitted.settle(_CANCELLED))
        self._running.clear()


@dataclasses.dataclass
class _Submitted:
    job: Job
    slot: Slot
    handle: Any
    stamp: int
    seen: bool = False

    def settle(self, reason: str) -> Outcome:
        return settle(self.job, 1, silent=status_stamp(self.job) == self.stamp, interrupted=reason)


def check_launcher(launcher: Launcher) -> None:
    """Finds what a launcher cannot do before any job starts.

    Args:
        launcher: The launcher part of a config.

    Raises:
        ConfigError: If a package is missing, or an option is unknown or of a wrong type.
    """
    if launcher.name == "local":
        if launcher.options:
            raise ConfigError(
                f"launcher=local has no launcher.options ({', '.join(launcher.options)} given): they belong to "
                "launcher=submitit_slurm, submitit_local or ray."
            )
        return
    module, extra = ("ray", "ray") if launcher.name == "ray" else ("hydra_plugins.hydra_submitit_launcher", "sweep")
    need(module, extra=extra, owner=f"launcher={launcher.name}", otherwise="use launcher=local", error=ConfigError)
    complete_options(launcher)
    if launcher.name == "submitit_slurm":
        import shutil

        if shutil.which("sbatch") is None:
            raise ConfigError(
                "launcher=submitit_slurm finds no sbatch here. Start it on a machine of the cluster from which jobs "
                "are submitted, or use launcher=submitit_local or local."
            )


def complete_options(launcher: Launcher) -> dict[str, Any]:
    """Returns the options of a cluster with the defaults of Hydra's plugin filled in.

    Args:
        launcher: The launcher part of a config.

    Raises:
        ConfigError: If one is unknown or of a wrong type.
    """
    given = launcher.options
    if launcher.name == "ray":
        _check_names(launcher, given, ("init", "remote"))
        for name, value in given.items():
            if not isinstance(value, Mapping | None):
                raise ConfigError(f"launcher.options.{name} holds options of Ray by name, it cannot be {value!r}.")
        return {name: dict(given.get(name) or {}) for name in ("init", "remote")}
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema = {"submitit_slurm": SlurmQueueConf, "submitit_local": LocalQueueConf}[launcher.name]
    ours = ("_target_", "submitit_folder", "nodes", "tasks_per_node")  # a run is one process
    names = [field.name for field in dataclasses.fields(schema) if field.name not in ours]
    _check_names(launcher, given, names)
    try:
        node = OmegaConf.merge(OmegaConf.structured(schema(name="hybridopt")), given)
        values = OmegaConf.to_container(OmegaConf.masked_copy(node, names), resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "options"
        raise ConfigError(f"launcher.options.{key} does not fit: {str(error).splitlines()[0]}") from error
    return {str(name): value for name, value in values.items() if value is not None}  # type: ignore[union-attr]


def _check_names(launcher: Launcher, given: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise ConfigError(
                f"launcher={launcher.name} has no option {name!r}.{suggest(name, names)} Its options, under "
                f"launcher.options: {', '.join(names)}."
            )
