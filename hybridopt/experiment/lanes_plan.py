"""Which runs of a sweep may share a process as lanes, and why the others may not."""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Hashable, Mapping

from hybridopt.core import CombinationError
from hybridopt.experiment import jsonio
from hybridopt.experiment.config import Launcher, RunConfig, optimizer_class
from hybridopt.optimizers.rules import Rule, declared

FEWEST = 4
"""Fewest runs that ``lanes=auto`` puts into one process."""

MOST = 64
"""Most lanes of one process; each keeps two files open, and more of them make a step hardly cheaper per lane."""

_FREE = {
    *("task", "optimizer", "schedule", "budget", "seed", "device", "dtype", "threads", "eval_every", "log_every"),
    *("launcher", "checkpoint_every", "out", "retry", "experiment", "tuning", "plugins"),
}
"""Config keys that lanes follow whatever they say; any other has to be as it is by default."""


def lane_rule(config: RunConfig) -> Rule:
    """Returns the pure rule of a run's optimizer.

    Args:
        config: A checked config.

    Raises:
        CombinationError: If the run cannot be a lane; the message is the reason.
    """
    name = config.optimizer["name"]
    rule = declared(optimizer_class(config.optimizer))
    if rule is None:
        raise CombinationError(f"the optimizer {name} declares no rule for one tensor")
    options = types.SimpleNamespace(**config.optimizer)
    refused = rule.refusal(options)
    if refused is not None:
        raise CombinationError(f"its rule does not know the option {refused} of {name}")
    if config.budget.seconds is not None:
        raise CombinationError("a lane has no seconds of its own, and budget.seconds limits them")
    plain = RunConfig()
    for field in dataclasses.fields(RunConfig):
        chosen, usual = getattr(config, field.name), getattr(plain, field.name)
        if isinstance(usual, dict) and isinstance(chosen, dict):
            chosen, usual = chosen.get("name"), usual.get("name")
        if field.name not in _FREE and chosen != usual:
            what = f"{field.name}={chosen}" if isinstance(chosen, str | int | float) else f"the key {field.name}"
            raise CombinationError(f"lanes leave {what} to ordinary runs")
    return rule.of(options)


def lane_key(config: RunConfig) -> Hashable:
    """Returns what the lanes of one process have in common: task, method, precision, device, threads, horizon.

    Args:
        config: A checked config.

    Raises:
        CombinationError: If the run cannot be a lane; the message is the reason.
    """
    rule = lane_rule(config)
    shared = [config.task, config.optimizer["name"], config.dtype, config.device, config.threads, config.plugins]
    return rule, jsonio.dumps({"shared": shared, "budget": dataclasses.asdict(config.budget)})


def plan_lanes(
    runs: Mapping[str, RunConfig], launcher: Launcher, processes: int
) -> tuple[list[list[str]], dict[str, int]]:
    """Divides runs among processes in which they are lanes.

    Args:
        runs: The runs to do, by any key.
        launcher: Its `lanes` counts. ``off``: there are none; ``auto``: what cannot be a lane, and groups too small
            to gain anything, are left to processes of their own; ``on``: nothing is.
        processes: Processes at the same time, among which a group is divided.

    Returns:
        The keys of each process's runs, and how many runs are to be done one by one for which reason.

    Raises:
        CombinationError: If a run cannot be a lane and ``launcher.lanes`` is ``on``.
    """
    if launcher.lanes == "off":
        return [], {}
    groups: dict[Hashable, list[str]] = {}
    alone: dict[str, int] = {}
    for name, config in runs.items():
        try:
            if launcher.name != "local":
                raise CombinationError(f"launcher={launcher.name} does one run in a job")
            key = lane_key(config)
        except CombinationError as reason:
            if launcher.lanes == "on":
                raise CombinationError(
                    f"launcher.lanes=on, but {config.optimizer['name']} on {config.task['name']} cannot share a "
                    f"process: {reason}. Use launcher.lanes=auto, which does such runs one by one."
                ) from reason
            alone[str(reason)] = alone.get(str(reason), 0) + 1
        else:
            groups.setdefault(key, []).append(name)
    shared: list[list[str]] = []
    for group in groups.values():
        if len(group) < FEWEST and launcher.lanes == "auto":
            few = f"fewer than {FEWEST} of them have task, method and budget in common"
            alone[few] = alone.get(few, 0) + len(group)
        else:
            shared += _divide(group, processes)
    return shared, alone


def _divide(group: list[str], processes: int) -> list[list[str]]:
    """Parts of nearly equal size: one for each process if they stay worth it, more if they would be too large."""
    parts = max(min(processes, len(group) // FEWEST), -(-len(group) // MOST), 1)
    bounds = [round(index * len(group) / parts) for index in range(parts + 1)]
    return [group[start:end] for start, end in itertools.pairwise(bounds)]
