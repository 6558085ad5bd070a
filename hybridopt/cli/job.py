"""``hybridopt job RUN_DIR``: one run in this process, or several as lanes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from hybridopt.cli import console
from hybridopt.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("directory", nargs="+", metavar="RUN_DIR", help="a run directory with a config.yaml")
    parser.add_argument("--device", help="overrides the config's, e.g. cuda:1")
    parser.add_argument("--timing", choices=["exclusive", "shared"], default="exclusive", help="recorded in the run")
    parser.add_argument(
        "--pause-at", type=float, metavar="COST", help="stop at this cost as interrupted, to go on later"
    )
    parser.add_argument("--lanes", choices=["auto", "on"], help="do several runs at once, if that is faster or always")
    parser.add_argument("--verdict", metavar="FILE", type=Path, help="where to write why lanes were used or not")
    parser.add_argument("--cores", help="CPU cores to pin the process to, e.g. 0,1")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Does the run.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If the directory cannot be used.
        ConfigError: If several directories are given without ``--lanes``.
    """
    pinned = None
    if options.cores and hasattr(os, "sched_setaffinity"):
        pinned = [int(core) for core in options.cores.split(",")]
        os.sched_setaffinity(0, pinned)  # before torch starts its threads
    if not options.lanes and len(options.directory) > 1:
        raise ConfigError("hybridopt job does one run; give several directories with --lanes auto or --lanes on.")
    from hybridopt.experiment.ending import HELD
    from hybridopt.experiment.interrupt import StopSignal
    from hybridopt.experiment.lock import LockedError
    from hybridopt.experiment.startup import process_began

    gone = StopSignal()()
    if gone is not None:  # since this process was started: whoever starts the sweep again starts the run again
        console.error(f"The run is not begun: {gone}.")
        return 130
    how = {"device": options.device, "pinned": pinned, "pause_at": options.pause_at, "began": process_began()}
    try:
        return _lanes(options, how) if options.lanes else _one(options, how)
    except LockedError as error:
        console.error(str(error))
        return HELD


def _one(options: argparse.Namespace, how: dict[str, Any]) -> int:
    """Does one run."""
    from hybridopt.core.errors import StoreError
    from hybridopt.experiment.ending import UNWRITTEN
    from hybridopt.experiment.job import run_job
    from hybridopt.experiment.jsonio import out_of_space

    directory = options.directory[0]
    try:
        status = run_job(directory, timing=options.timing, **how)
    except StoreError as error:
        if not out_of_space(error):
            raise
        console.error(str(error))
        return UNWRITTEN
    if status["status"] == "interrupted":
        return 130
    if status["status"] != "done":
        console.error(f"The run in {directory} ended as {status['status']}: {status['reason']}.")
        return 1
    return 0


def _lanes(options: argparse.Namespace, how: dict[str, Any]) -> int:
    """Does several runs as lanes."""
    from hybridopt.experiment.lanes_job import DECLINED, run_lanes

    directories = [Path(directory) for directory in options.directory]
    statuses = run_lanes(directories, options.lanes, verdict=options.verdict, **how)
    if statuses is None:
        return DECLINED
    endings = {status["status"] for status in statuses.values()}
    if "interrupted" in endings:
        return 130
    return 0 if endings == {"done"} else 1
