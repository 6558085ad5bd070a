"""``hybridopt report DIR``: the report of what is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridopt.cli.directory import add_directory, given_directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command.

    Args:
        parser: The command's parser.
    """
    add_directory(parser)
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
    directory = given_directory(options)
    from hybridopt.cli import console
    from hybridopt.report import write_report

    formats = [] if options.figures is None else options.figures.split(",")
    paths = write_report(directory, options.out, figures=formats, latex=options.latex)
    console.line(f"report: {paths.html}")
    if paths.latex:
        console.line(f"tables: {paths.latex}")
    if paths.figures:
        console.line(f"figures: {len(paths.figures)} files in {paths.figures[0].parent}")
    return 0
