"""The queues that `cluster` hands jobs to: submitit's and Ray's."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.core import ConfigError
from hybridopt.experiment.processes import job_environment
from hybridopt.experiment.remote import RemoteJob, do
from hybridopt.experiment.slots import Slot


class Submitit:
    """Submits through submitit: an array of SLURM jobs, or processes of this machine.

    Args:
        cluster: ``slurm`` or ``local``.
        options: What `complete_options` returned.
        folder: Where submitit keeps its files.
        slot: What each job gets.
    """

    def __init__(self, cluster: str, options: Mapping[str, Any], folder: Path, slot: Slot) -> None:
        import submitit

        self._local = cluster == "local"
        general = {"timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name", "stderr_to_stdout"}
        values = {
            name if name in general else f"{cluster}_{name}": value
            for name, value in options.items()
            if name != "max_num_timeout"
        }
        values.setdefault("cpus_per_task", slot.threads)
        retries = {} if self._local else {"slurm_max_num_timeout": options["max_num_timeout"]}
        self._executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster, **retries)
        try:
            self._executor.update_parameters(**values)
        except (ValueError, NameError, TypeError) as error:
            raise ConfigError(f"submitit refuses launcher.options: {str(error).splitlines()[0]}") from error

    def submit(self, jobs: Sequence[RemoteJob]) -> list[Any]:
        """Submits jobs and returns a handle of each, with `ending()` and `cancel()`.

        Args:
            jobs: What travels to the nodes.

        Raises:
            ConfigError: If they are refused.
        """
        import submitit

        try:
            with _ignoring_interrupts():
                submitted = self._executor.submit_array(list(jobs))
        except submitit.helpers.FailedJobError as error:  # sbatch refused, and says why
            raise ConfigError(f"The cluster refuses the jobs: {error}") from error
        return [_SubmititJob(job, self._local) for job in submitted]


class _SubmititJob:
    def __init__(self, job: Any, local: bool) -> None:
        self._job, self._local = job, local

    def ending(self) -> str | None:
        """Returns the cluster's word for how the job ended, or None."""
        return str(self._job.state) if self._job.done() else None

    def cancel(self) -> None:
        if self._local:
            # submitit's own way leaves a second until SIGKILL; this one is passed on, and the run saves itself.
            os.kill(int(self._job.job_id), signal.SIGTERM)
        else:
            self._job.cancel()


class Ray:
    """Submits to Ray: a running cluster (``init.address``), or one on this machine for as long as the sweep takes.

    Args:
        options: ``init``, arguments of `ray.init`, and ``remote``, options of each task such as ``num_gpus``.
        slot: What each job gets.
    """

    def __init__(self, options: Mapping[str, Any], slot: Slot) -> None:
        self._init = {"log_to_driver": False, **options["init"]}
        if self._init.get("address") is None:
            self._init.setdefault("include_dashboard", False)
        self._remote = {"num_cpus": slot.threads, "max_retries": 0, **options["remote"]}
        if slot.device != "cpu":
            self._remote.setdefault("num_gpus", 1)

    def __enter__(self) -> Ray:
        import ray

        self._own = not ray.is_initialized()
        if self._own:
            with inherited_environment():
                try:
                    ray.init(**self._init)
                except (TypeError, ValueError, ConnectionError, RuntimeError) as error:
                    raise ConfigError(f"Ray does not start with launcher.options.init: {error}") from error
        return self

    def __exit__(self, *problem: object) -> None:
        if self._own:
            import ray

            ray.shutdown()

    def submit(self, jobs: Sequence[RemoteJob]) -> list[Any]:
        """See `Submitit.submit`."""
        import ray

        try:
            task = ray.remote(do).options(**self._remote)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Ray refuses launcher.options.remote: {error}") from error
        return [_RayJob(task.remote(job)) for job in jobs]


class _RayJob:
    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def ending(self) -> str | None:
        """Returns Ray's word for how the task ended, or None."""
        import ray

        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return str(ray.get(self._reference))
        except Exception as error:  # whatever the task or its worker died of
            return type(error).__name__

    def cancel(self) -> None:
        import ray

        ray.cancel(self._reference)


@contextlib.contextmanager
def inherited_environment() -> Iterator[None]:
    """Lets what is started now find this package, also in a checkout that is not installed."""
    wanted = job_environment(1).get("PYTHONPATH")
    before = os.environ.get("PYTHONPATH")
    if wanted is None:
        yield
        return
    os.environ["PYTHONPATH"] = wanted
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Starts processes that a Ctrl-C at this terminal does not reach: the launcher asks them to save themselves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
