"""Where a run's numbers come from: code, versions, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from hybridopt.experiment.jsonio import utc_now

_PACKAGES = ("torch", "hybridopt", "scipy", "numpy", "hydra-core", "omegaconf", "wandb")


def collect(*, device: str, threads: int, timing: str) -> dict[str, Any]:
    """Returns the facts about code and machine that belong into `provenance.json`.

    Args:
        device: Where the run computes: "cpu", "cuda" or "cuda:1".
        threads: Number of threads that torch uses.
        timing: "exclusive" if nothing else ran on the machine's share of this run, "shared" if other jobs
            did, "lanes" if several runs shared one process; tells what the seconds are worth.

    Returns:
        Plain data: versions, commit and dirty (of this package's source, None when it is not a checkout;
        dirty is a hash of the differences or None), device, cpu, cores, host, platform, threads, timing, load
        (mean number of waiting processes in the minute before, None where the system does not tell), started.
    """
    return {
        "started": utc_now(),
        "versions": versions(),
        **source_state(),
        "device": device_name(device),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "host": platform.node(),
        "platform": platform.platform(),
        "threads": threads,
        "timing": timing,
        "load": machine_load(),
    }


def machine_load() -> float | None:
    """Returns the mean number of waiting processes in the last minute, None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows; containers that hide it
        return None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_state(directory: Path | None = None) -> dict[str, str | None]:
    """Returns commit and dirty hash of the checkout that a directory belongs to.

    Args:
        directory: A directory whose `__init__.py` must be tracked, so that an installed copy inside somebody
            else's repository is not mistaken for a checkout; this package's own when None.
    """
    directory = directory or Path(__file__).resolve().parents[1]
    if _git(directory, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    commit = _git(directory, "rev-parse", "HEAD")
    difference = (_git(directory, "diff", "HEAD", "--", ".") or "") + (
        _git(directory, "ls-files", "--others", "--exclude-standard", "--", ".") or ""
    )
    dirty = hashlib.sha256(difference.encode()).hexdigest()[:16] if difference.strip() else None
    return {"commit": commit.strip() if commit else None, "dirty": dirty}


def cpu_model() -> str:
    """Returns the processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str:
    """Returns a device with its model, e.g. "cuda:0 (NVIDIA A100)"; "cpu" stays "cpu"."""
    if device.partition(":")[0] != "cuda":
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if torch.cuda.is_available() else device


def _git(directory: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            env=environment,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
