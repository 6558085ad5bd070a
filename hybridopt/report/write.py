"""Writes the report beside the runs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio
from hybridopt.report.markdown import render_markdown
from hybridopt.report.page import render_page
from hybridopt.results import load


@dataclasses.dataclass(frozen=True)
class ReportPaths:
    """Where a report lies.

    Attributes:
        html: The self-contained page.
        markdown: Its twin in Markdown.
    """

    html: Path
    markdown: Path


def write_report(directory: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> ReportPaths:
    """Writes `report.html` and `report.md` about all runs below a directory, finished or not.

    The page needs no network and no other file; without scripts it is complete but for the values under the
    pointer.

    Args:
        directory: A sweep's directory, one above several, or one run's.
        out: Directory to write to; the same when None.

    Raises:
        StoreError: If there are no runs, or the report cannot be written.
    """
    results = load(directory)
    if not results.runs:
        problems = f" What was found cannot be read: {'; '.join(results.problems)}" if results.problems else ""
        raise StoreError(
            f"There are no runs below {directory}. Give the directory that `hybridopt run` printed at its "
            f"end.{problems}"
        )
    target = Path(directory if out is None else out)
    with jsonio.writing(target):
        target.mkdir(parents=True, exist_ok=True)
    paths = ReportPaths(target / "report.html", target / "report.md")
    jsonio.write_atomic(paths.html, render_page(results))
    jsonio.write_atomic(paths.markdown, render_markdown(results))
    return paths
