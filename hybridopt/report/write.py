"""Writes the report beside the runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio
from hybridopt.report.exports import csv_text, latex_tables, ranking_records, run_records, write_parquet
from hybridopt.report.markdown import render_markdown
from hybridopt.report.page import render_page
from hybridopt.report.pictures import check_formats, write_pictures
from hybridopt.report.plots import need_matplotlib
from hybridopt.report.ranking import ranking_table
from hybridopt.results import load


@dataclasses.dataclass(frozen=True)
class ReportPaths:
    """Where a report lies.

    Attributes:
        html: The self-contained page.
        markdown: Its twin in Markdown.
        ranking: The ranking as CSV.
        runs: One row a run as CSV.
        parquet: The same as Parquet, None without pandas and pyarrow.
        latex: Tables in LaTeX, None unless asked for.
        figures: Figures, empty unless asked for.
    """

    html: Path
    markdown: Path
    ranking: Path
    runs: Path
    parquet: Path | None = None
    latex: Path | None = None
    figures: tuple[Path, ...] = ()


def write_report(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    figures: Sequence[str] = (),
    latex: bool = False,
) -> ReportPaths:
    """Writes `report.html` and `report.md` about all runs below a directory, finished or not.

    Beside them lie `ranking.csv`, `runs.csv` and, where pandas and pyarrow are installed, `runs.parquet`.

    The page needs no network and no other file; without scripts it is complete but for the values under the
    pointer.

    Args:
        directory: A sweep's directory, one above several, or one run's.
        out: Directory to write to; the same when None.
        figures: Formats in which figures are written to `figures/`: some of "svg", "pdf", "png".
        latex: Whether to write `ranking.tex`.

    Raises:
        HybridoptError: If figures need matplotlib and it is not installed.
        StoreError: If there are no runs, or the report cannot be written.
    """
    formats = check_formats(",".join(figures)) if figures else []
    if set(formats) - {"svg"}:
        need_matplotlib()
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
    paths = ReportPaths(target / "report.html", target / "report.md", target / "ranking.csv", target / "runs.csv")
    jsonio.write_atomic(paths.html, render_page(results))
    jsonio.write_atomic(paths.markdown, render_markdown(results))
    jsonio.write_atomic(paths.ranking, csv_text(ranking_records(ranking_table(results))))
    jsonio.write_atomic(paths.runs, csv_text(run_records(results)))
    if write_parquet(results, target / "runs.parquet"):
        paths = dataclasses.replace(paths, parquet=target / "runs.parquet")
    if latex:
        paths = dataclasses.replace(paths, latex=target / "ranking.tex")
        jsonio.write_atomic(target / "ranking.tex", latex_tables(results))
    if formats:
        paths = dataclasses.replace(paths, figures=tuple(write_pictures(results, target / "figures", formats)))
    return paths
