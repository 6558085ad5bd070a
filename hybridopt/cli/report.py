"""``hybridopt report DIR``: the report of what is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridopt.core.errors import StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory with runs below it")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: DIR itself)")
    parser.add_argument(
        "--figures", metavar="FORMATS", help="write the figures for papers too: svg,pdf,png (some of them)"
    )
    parser.add_argument("--latex", action="store_true", help="write the ranking as LaTeX tables too")


def main(options: argparse.Namespace, *, debug: bool) -> int:
    """Writes the report.

    Args:
        options: The parsed arguments.
        debug: Whether to show traces.

    Raises:
        StoreError: If there is no such directory.
    """
    if not options.directory.is_dir():
        raise StoreError(f"There is no directory {options.directory}. Give the one that a run or a sweep printed.")
    from hybridopt.cli import console
    from hybridopt.report import write_report

    formats = [] if options.figures is None else options.figures.split(",")
    paths = write_report(options.directory, options.out, figures=formats, latex=options.latex)
    console.line(f"report: {paths.html}")
    if paths.latex:
        console.line(f"tables: {paths.latex}")
    if paths.figures:
        console.line(f"figures: {len(paths.figures)} files in {paths.figures[0].parent}")
    return 0
