"""Timing that holds on a noisy machine: everything in one process, in turns, and quoted as ratios."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import hybridopt


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    least: int = 5,
    most: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times contenders in turns, A B C A B C ..., after one round that is not counted.

    Args:
        contenders: Names and functions.
        seconds: How long to go on.
        least: Fewest rounds.
        most: Most rounds.
        clock: What the calls are timed by; `time.process_time` holds on a busy machine, for one thread on the CPU.

    Returns:
        Seconds of every call.
    """
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    started = time.perf_counter()
    for round_ in range(most):
        if round_ >= least and time.perf_counter() - started > seconds:
            break
        for name, run in contenders.items():
            synchronize()
            before = clock()
            run()
            synchronize()
            times[name].append(clock() - before)
    return times


def synchronize() -> None:
    """Waits for the GPU, if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median(values: list[float]) -> float:
    """Returns the median."""
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """Returns what the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hybridopt": hybridopt.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def write_json(path: str | None, results: dict[str, Any]) -> None:
    """Writes results with the machine they come from.

    Args:
        path: Where to, or None for nowhere.
        results: Plain values.
    """
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
