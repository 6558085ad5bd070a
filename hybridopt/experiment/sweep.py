"""A sweep: many checked runs, of which only those are done that are not there yet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from hybridopt.core import DeviceError, StoreError
from hybridopt.experiment import jsonio
from hybridopt.experiment.build import build_task, check_buildable
from hybridopt.experiment.cluster import Cluster, check_launcher
from hybridopt.experiment.config import RunConfig, slot_count, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.lanes_plan import plan_lanes
from hybridopt.experiment.lanes_pool import LanePool
from hybridopt.experiment.layout import PAUSED, STATUS, check_format, task_label, write_config
from hybridopt.experiment.lock import lock_holder
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.rehearsal import rehearse
from hybridopt.experiment.slots import Job, Slot

CLUSTER_FILES = ".jobs"
"""Directory below a sweep's for what its cluster writes: submission files, pickles, logs."""

LANES = "lanes"
"""Directory below a sweep's for what was decided about doing runs in lanes, and why."""

MANIFEST = "sweep.json"
"""File in a sweep's directory that lists its runs, also those that are not there yet."""


def run_sweep(configs: Sequence[RunConfig], monitor: Monitor, *, pause_at: float | None = None) -> list[Outcome]:
    """Does every run that is not done yet, each in a fresh process, or with ``launcher.lanes`` several in one.

    Done and diverged runs are kept, killed and interrupted ones go on from their checkpoints, failed ones are left
    unless ``retry=failed``. Every config is checked as far as possible before the first job starts, data included.

    Args:
        configs: Checked configs; equal ones count once.
        monitor: Shows what happens.
        pause_at: Cost in gradient-equivalents at which every run stops as interrupted; those that are there already
            are left. A later sweep goes on with them.

    Returns:
        How every run of the sweep stands, in the order of the configs.

    Raises:
        HybridoptError: If one of them could not start, is being run by another process, or has another format.
        KeyboardInterrupt: If the sweep was stopped; the running jobs have saved themselves.
    """
    runs = {run_id(to_plain(config)): config for config in configs}
    directories = {key: run_directory(config).resolve() for key, config in runs.items()}
    kept: dict[str, Outcome] = {}
    for key, config in runs.items():
        outcome = _standing(directories[key], config, pause_at)
        if outcome is not None:
            kept[key] = outcome
    todo = {key: config for key, config in runs.items() if key not in kept}
    check_launcher(configs[0].launcher)
    _check_all(list(todo.values()))
    slots = make_slots(list(todo.values()))
    launcher = configs[0].launcher
    groups, alone = plan_lanes(todo, launcher, len(slots))
    _write_manifest(runs, directories)
    jobs = {}
    for key, config in todo.items():
        write_config(directories[key], to_plain(config))
        jobs[key] = Job(directories[key], run_name(config), pause_at)
    queue: Pool | Cluster
    if launcher.name == "local":
        queue = Pool(slots, launcher.time_limit, monitor)
    else:
        queue = Cluster(launcher, slots, sweep_directory(configs[0]).resolve() / CLUSTER_FILES, monitor)
    try:
        monitor.begin(len(jobs), list(kept.values()), len(jobs) if launcher.elsewhere else len(slots))
        for reason, count in alone.items():
            monitor.note(f"{count} runs one by one: {reason}")
        ended = []
        if groups:
            verdicts = sweep_directory(configs[0]).resolve() / LANES
            lanes = LanePool(slots, launcher.lanes, launcher.time_limit, verdicts, monitor)
            ended = lanes.run([[jobs[key] for key in group] for group in groups])
        over = {outcome.directory for outcome in ended}
        ended += queue.run([job for job in jobs.values() if job.directory not in over])
    finally:
        monitor.close()
    by_directory = {outcome.directory: outcome for outcome in [*kept.values(), *ended]}
    return [by_directory[directories[key]] for key in runs]


def run_name(config: RunConfig) -> str:
    """Returns what people call a run: ``task[/problem]/optimizer[+escape]/s0``.

    Args:
        config: A checked config.
    """
    directory = run_directory(config)
    return f"{task_label(config.task)}/{directory.parent.name}/s{config.seed}"


def sweep_directory(config: RunConfig) -> Path:
    """Returns the directory that holds the runs of a config's experiment.

    Args:
        config: A checked config.
    """
    return run_directory(config).parents[2]


def make_slots(configs: Sequence[RunConfig]) -> list[Slot]:
    """Returns the places where the jobs of a sweep run; for a cluster elsewhere, one that stands for all.

    On GPUs: `jobs_per_gpu` on each that the configs name (``cuda`` names all). On the CPU: `slots`, each pinned to
    its own cores where the system can and there are enough.

    Args:
        configs: The runs to do; the first one's launcher counts.

    Raises:
        DeviceError: If some runs want a GPU and some the CPU.
    """
    if not configs:
        return [Slot("cpu", 1)]
    first = configs[0]
    devices = sorted({config.device for config in configs})
    if first.launcher.elsewhere and len(devices) == 1:
        return [Slot(devices[0], max(config.threads or 1 for config in configs))]
    if devices == ["cpu"]:
        threads = max(config.threads or 1 for config in configs)
        count = slot_count(first.launcher.slots, threads)
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        pin = len(available) >= count * threads and count > 1
        return [
            Slot("cpu", threads, tuple(available[i * threads : (i + 1) * threads]) if pin else ()) for i in range(count)
        ]
    if "cpu" in devices:
        raise DeviceError(
            "A sweep runs on GPUs or on the CPU, not on both: their seconds cannot be compared. Start two sweeps, or "
            "set one device for all."
        )
    import torch

    named = devices if "cuda" not in devices else [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    per_gpu = first.launcher.jobs_per_gpu
    threads = first.threads or 1
    return [Slot(device, threads) for _ in range(per_gpu) for device in named]


def _standing(directory: Path, config: RunConfig, pause_at: float | None) -> Outcome | None:
    """Returns how a run stands if it is to be left alone, None if it is to be done or gone on with."""
    check_format(directory)
    holder = lock_holder(directory)
    if holder is not None:
        raise StoreError(
            f"The run {directory} is being done by {holder}. Wait for it, stop it, or choose another directory with "
            "out=DIR."
        )
    known = jsonio.read_json(directory / STATUS) or {}
    status, reason = known.get("status"), str(known.get("reason", ""))
    left = ("done", "diverged") if config.retry == "failed" else ("done", "diverged", "failed")
    paused = pause_at is not None and status == "interrupted" and reason.startswith(PAUSED)
    if status not in left and not (paused and known.get("gradient_equivalents", 0) >= pause_at):
        return None
    return Outcome(directory, run_name(config), status, reason, fresh=False)


def _check_all(configs: Sequence[RunConfig]) -> None:
    """Loads each task's data once, builds every optimizer and rehearses its first step before any job starts."""

    def data_key(config: RunConfig) -> str:
        return jsonio.dumps({key: value for key, value in config.task.items() if key != "batch_size"})

    for _, group in itertools.groupby(sorted(configs, key=data_key), key=data_key):
        same_data = list(group)
        task = build_task(same_data[0])
        splits = task.splits(same_data[0].seed)
        rehearsed = set()
        for config in same_data:
            check_buildable(config, splits, task)
            step = jsonio.dumps([config.task, config.optimizer, config.escape, config.data, config.dtype])
            if step not in rehearsed:  # other seeds and budgets refuse nothing else
                rehearsed.add(step)
                rehearse(config, splits.train)


def _write_manifest(runs: dict[str, RunConfig], directories: dict[str, Path]) -> None:
    """Adds the runs to the list in the sweep's directory, which `hybridopt status` reads."""
    by_sweep: dict[Path, dict[str, str]] = {}
    for key, config in runs.items():
        root = sweep_directory(config).resolve()
        by_sweep.setdefault(root, {})[key] = str(directories[key].relative_to(root))
    for root, entries in by_sweep.items():
        with jsonio.writing(root):
            root.mkdir(parents=True, exist_ok=True)
        path = root / MANIFEST
        known = (jsonio.read_json(path) or {}).get("runs", {})
        content = {"format": 1, "updated": jsonio.utc_now(), "runs": {**known, **entries}}
        jsonio.write_atomic(path, jsonio.dumps(content) + "\n")
