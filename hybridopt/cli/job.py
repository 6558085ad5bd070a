"""``hybridopt job RUN_DIR``: one run in this process."""

from __future__ import annotations

import argparse
import os

from hybridopt.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("directory", metavar="RUN_DIR", help="a run directory with a config.yaml")
    parser.add_argument("--device", help="overrides the config's, e.g. cuda:1")
    parser.add_argument("--timing", choices=["exclusive", "shared"], default="exclusive", help="recorded in the run")
    parser.add_argument(
        "--pause-at", type=float, metavar="COST", help="stop at this cost as interrupted, to go on later"
    )
    parser.add_argument("--cores", help="CPU cores to pin the process to, e.g. 0,1")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Does the run.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If the directory cannot be used.
    """
    pinned = None
    if options.cores and hasattr(os, "sched_setaffinity"):
        pinned = [int(core) for core in options.cores.split(",")]
        os.sched_setaffinity(0, pinned)  # before torch starts its threads
    from hybridopt.core.errors import StoreError
    from hybridopt.experiment.job import run_job
    from hybridopt.experiment.jsonio import out_of_space
    from hybridopt.experiment.pool import UNWRITTEN

    try:
        status = run_job(
            options.directory, device=options.device, timing=options.timing, pinned=pinned, pause_at=options.pause_at
        )
    except StoreError as error:
        if not out_of_space(error):
            raise
        console.error(str(error))
        return UNWRITTEN
    if status["status"] == "interrupted":
        return 130
    if status["status"] != "done":
        console.error(f"The run in {options.directory} ended as {status['status']}: {status['reason']}.")
        return 1
    return 0
