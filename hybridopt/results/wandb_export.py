"""Rebuilds finished runs in Weights & Biases from their directories."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridopt.core import StoreError, make_config
from hybridopt.experiment import jsonio
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.layout import CONFIG, HISTORY, PROVENANCE, STATUS
from hybridopt.experiment.trackers_wandb import WandbTracker
from hybridopt.results.loading import load

RECEIPT = "hybridopt-export.json"
"""File in the directory of an offline run: of what state of which run it is the copy."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What became of one run.

    Attributes:
        directory: The run directory.
        run_id: Its identity, which is its id in wandb.
        fresh: Whether it was written now; False when an equal copy was there.
        rows: Rows of its history.
    """

    directory: Path
    run_id: str
    fresh: bool
    rows: int


def export_wandb(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    online: bool = False,
    project: str | None = None,
    entity: str | None = None,
) -> Iterator[Exported]:
    """Rebuilds every run below a directory in wandb: config, axes, tags, group, all rows, summary.

    An offline copy lies in ``OUT/wandb/offline-run-*-<run id>`` and is uploaded by ``wandb sync``. Called again, it
    leaves equal copies alone and replaces those of runs that have changed since. Online, the rows that the server has
    already are not sent again. Options of a run's own ``tracker=wandb`` hold, unless given here.

    Args:
        directory: A sweep's directory, or one run's.
        out: Where the offline copies go; None: the directory itself.
        online: Whether to send the runs to the server now; needs ``wandb login``.
        project: Project name; None: that of the run's config, else ``hybridopt``.
        entity: Team or user; None: that of the run's config.

    Yields:
        One entry a run, as soon as it is done.

    Raises:
        StoreError: If there are no runs, or a copy cannot be written.
    """
    results = load(directory)
    if not results.runs:
        raise StoreError(f"There are no runs below {directory}. Give the directory that `hybridopt run` printed.")
    where = Path(directory if out is None else out)
    given = {"mode": "online" if online else "offline", "project": project, "entity": entity}
    for run in results:
        identity = run.provenance.get("run_id") or run_id(run.config)
        copies = (
            [] if online else sorted((where / "wandb").glob(f"offline-run-*-{identity}*"))
        )  # "-1" and so on in the same second
        state = {"run_id": identity, "state": run.state, "content": _digest(run.directory)}
        if any(jsonio.read_json(copy / RECEIPT) == state for copy in copies):
            yield Exported(run.directory, identity, False, len(run.recorded))
            continue
        own = run.config.get("tracker") or {}
        options = {key: item for key, item in own.items() if key != "name"} if own.get("name") == "wandb" else {}
        options |= {key: item for key, item in given.items() if item is not None}
        tracker = WandbTracker(make_config(WandbTracker.Config, options, owner="tracker"))
        with jsonio.writing(where):
            where.mkdir(parents=True, exist_ok=True)
        path = tracker.open(where.resolve(), run.directory, run.config, identity)
        for row in run.recorded:
            tracker.log(row)
        tracker.finish({**run.status, "status": run.state})
        if path is not None:
            jsonio.write_atomic(path / RECEIPT, jsonio.dumps(state) + "\n")
        for old in copies:
            with jsonio.writing(old):
                shutil.rmtree(old)
        yield Exported(run.directory, identity, True, len(run.recorded))


def _digest(directory: Path) -> str:
    """Tells states of a run directory apart."""
    found: Any = hashlib.sha256()
    for name in (CONFIG, PROVENANCE, HISTORY, STATUS):
        path = directory / name
        found.update(path.read_bytes() if path.exists() else b"")
        found.update(b"\0")
    return found.hexdigest()[:32]
