"""The argument of commands that look at runs: a directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridopt.core.errors import StoreError


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Declares the argument ``DIR``.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory with runs below it")


def given_directory(options: argparse.Namespace) -> Path:
    """Returns the directory given.

    Args:
        options: The parsed arguments.

    Raises:
        StoreError: If there is no such directory.
    """
    if not options.directory.is_dir():
        raise StoreError(f"There is no directory {options.directory}. Give the one that a run or a sweep printed.")
    return Path(options.directory)
