"""Finds run directories and reads what they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridopt.core.errors import ConfigError, StoreError
from hybridopt.experiment import jsonio
from hybridopt.experiment.identity import FORMAT
from hybridopt.experiment.layout import CONFIG, HISTORY, PROVENANCE, STATUS, read_config, section_name
from hybridopt.experiment.lock import lock_holder
from hybridopt.results.collection import Results
from hybridopt.results.run import Run


def load(directory: str | os.PathLike[str]) -> Results:
    """Reads all runs below a directory.

    Args:
        directory: A sweep's directory, one above several, or one run's.

    Raises:
        StoreError: If there is no such directory.

    Returns:
        The runs, finished or not; histories are read when first asked for.
    """
    root = Path(directory)
    if not root.is_dir():
        raise StoreError(f"There is no directory {root}. Give the one that `hybridopt run` printed at its end.")
    results = Results(root, [])
    for path in _run_directories(root):
        try:
            run = _read_run(path, root)
        except (StoreError, ConfigError) as error:
            results.problems.append(f"{path.relative_to(root)}: {error}")
            continue
        if run is not None:
            results.runs.append(run)
    results.runs.sort(key=lambda run: (run.task, run.optimizer, run.escape or "", run.setting, str(run.seed).zfill(12)))
    return results


def _run_directories(root: Path) -> Iterator[Path]:
    """Yields the directories that hold a run, without looking into them further."""
    marks = {HISTORY, STATUS, PROVENANCE, CONFIG}
    for directory, folders, files in os.walk(root):
        if not marks.isdisjoint(files):
            yield Path(directory)
        if {HISTORY, STATUS, PROVENANCE}.isdisjoint(files):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "wandb")
        else:
            folders.clear()


def _read_run(path: Path, root: Path) -> Run | None:
    """Returns the run in a directory, None if a lone config.yaml there belongs to something else."""
    provenance = jsonio.read_json(path / PROVENANCE) or {}
    status = jsonio.read_json(path / STATUS) or {}
    for known in (provenance, status):
        if known.get("format", FORMAT) != FORMAT:
            raise StoreError(
                f"written in run format {known['format']}, but this version of hybridopt reads format {FORMAT}."
            )
    started = bool(provenance or status) or (path / HISTORY).exists()
    try:
        config = read_config(path)
        if not section_name(config.get("task")) or not section_name(config.get("optimizer")):
            raise StoreError(f"{path / CONFIG} names no task and optimizer.")
    except StoreError:
        if not started:
            return None
        config = _config_from_path(path)
    state = str(status.get("status") or ("running" if started else "pending"))
    if state == "running" and lock_holder(path) is None:
        state = "killed"
    return Run(path, config, provenance, status, state)


def _config_from_path(path: Path) -> dict[str, Any]:
    """What `<task>/<optimizer>[+escape]/s<seed>-<hash>` tells of a run that has lost its config."""
    parts = path.resolve().parts[-3:]
    seed = re.fullmatch(r"s(\d+)-[0-9a-f]{8,}", parts[-1])
    if len(parts) < 3 or seed is None:
        return {}
    optimizer, _, escape = parts[1].partition("+")
    return {
        "task": {"name": parts[0]},
        "optimizer": {"name": optimizer},
        "escape": {"name": escape or "none"},
        "seed": int(seed[1]),
    }
