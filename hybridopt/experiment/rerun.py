"""Does runs again, one at a time, for seconds that mean something: `hybridopt rerun --timing`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.core import StoreError
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment import jsonio
from hybridopt.experiment.config import Budget, Export, Launcher, RunConfig, cores, resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.layout import STATUS, TIMING, check_format, read_config, write_config
from hybridopt.experiment.lock import LockedError, RunLock, lock_holder
from hybridopt.experiment.monitor import Monitor, Outcome
from hybridopt.experiment.pool import Pool
from hybridopt.experiment.provenance import machine_load
from hybridopt.experiment.slots import Job, Slot

BUSY = 0.5
"""Waiting processes in the mean of the last minute above which a machine is not idle."""


def rerun(names: Mapping[Path, str], root: Path, monitor: Monitor, *, again: bool = False) -> list[Outcome]:
    """Does runs again, each in a fresh process with the machine to itself.

    A replay is an ordinary run directory, ``RUN_DIR/timing``, of the same identity, marked ``timing: exclusive``, and
    without tracker and exports; where the run had a ``budget.seconds``, the replay has its number of steps instead. The
    run itself is not touched. Replays that are done are kept, others go on from their checkpoints.

    Args:
        names: What people call the runs, by their directories; they are done in this order.
        root: Directory of the sweep, which is locked meanwhile: two such commands would disturb each other.
        monitor: Shows what happens.
        again: Whether to do also those again that are done, from the start.

    Returns:
        How every replay stands, in the order of `names`.

    Raises:
        StoreError: If one of the runs cannot be done by this version, or another process is at work on one.
        HybridoptError: If one of them cannot be done here: its device, or a plugin is missing.
        KeyboardInterrupt: If it was stopped; the replay that was going on has saved itself.
    """
    for directory in names:
        _check_free(directory)
    try:
        lock = RunLock(root)
    except LockedError:
        raise StoreError(f"Another hybridopt rerun is timing the runs in {root}. Wait for it, or stop it.") from None
    try:
        kept = {} if again else {directory: known for directory in names if (known := _ended(directory, names))}
        configs = {directory: _replay_config(directory) for directory in names if directory not in kept}
        for directory, config in configs.items():
            place = directory / TIMING
            if again and place.exists():
                with jsonio.writing(place):
                    shutil.rmtree(place)
            write_config(place, to_plain(config))
        jobs = [(Job(directory / TIMING, names[directory]), config) for directory, config in configs.items()]
        ended = _one_by_one(jobs, list(kept.values()), monitor)
    finally:
        lock.release()
    found = {outcome.directory: outcome for outcome in [*kept.values(), *ended]}
    return [found[directory / TIMING] for directory in names]


def _ended(directory: Path, names: Mapping[Path, str]) -> Outcome | None:
    """Returns how the replay of a run ended, None if it has not."""
    known = jsonio.read_json(directory / TIMING / STATUS) or {}
    if known.get("status") not in ("done", "diverged"):
        return None
    return Outcome(directory / TIMING, names[directory], known["status"], str(known.get("reason", "")), fresh=False)


def _one_by_one(jobs: Sequence[tuple[Job, RunConfig]], kept: list[Outcome], monitor: Monitor) -> list[Outcome]:
    ended: list[Outcome] = []
    try:
        monitor.begin(len(jobs), kept, 1)
        load = machine_load() or 0.0
        if jobs and load > BUSY:
            monitor.note(
                f"This machine is not idle (load {load:.1f} on {cores()} cores): what else runs on it will show in the "
                "seconds. Stop it, and give --again to those that are done."
            )
        for job, config in jobs:
            device = "cuda:0" if config.device == "cuda" else config.device
            ended += Pool([Slot(device, config.threads or 1)], None, monitor, timing="exclusive").run([job])
    finally:
        monitor.close()
    return ended


def _check_free(directory: Path) -> None:
    """Refuses runs of another format, and those that a process is writing."""
    for place in (directory, directory / TIMING):
        check_format(place)
        holder = lock_holder(place)
        if holder is not None:
            raise StoreError(f"The run {place} is being done by {holder}. Wait for it, or stop it.")


def _replay_config(directory: Path) -> RunConfig:
    """Returns the config that a run is done again with, checked on this machine."""
    values = read_config(directory)
    for plugin in values.get("plugins") or []:
        load_plugin(plugin)
    config = resolve(values, here=True)
    if run_id(to_plain(config)) != run_id(values):
        raise StoreError(
            f"This version of hybridopt would not do the run {directory} again, but another one: its options have "
            "changed since. Use the version that is named in its provenance.json."
        )
    budget = _timeless(config.budget, jsonio.read_json(directory / STATUS) or {})
    return dataclasses.replace(
        config, budget=budget, tracker={"name": "none"}, launcher=Launcher(), export=Export(), retry="none"
    )


def _timeless(budget: Budget, status: Mapping[str, Any]) -> Budget:
    """Returns a budget that ends where the run did, however long that takes now."""
    if budget.seconds is None:
        return budget
    timeless = dataclasses.replace(budget, seconds=None)
    if not timeless.unlimited and not ended_by_seconds(status):
        return timeless
    begun = status.get("status") == "diverged"  # in a step that is not counted
    return dataclasses.replace(timeless, steps=max(1, int(status.get("steps") or 0) + begun))


def ended_by_seconds(status: Mapping[str, Any]) -> bool:
    """Tells whether a run ended because its ``budget.seconds`` was used.

    Args:
        status: Content of its status.json.
    """
    return str(status.get("reason", "")).startswith("budget.seconds=")
