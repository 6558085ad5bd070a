"""The report's numbers for other programs: CSV always, Parquet where pandas can write it, LaTeX on demand."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridopt.experiment import jsonio
from hybridopt.report.ranking import RankingRow, Time, ranking_table, seconds_title
from hybridopt.report.text import DASH, metric, number
from hybridopt.results import Results

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "≥": r"$\ge$",
        "≤": r"$\le$",
        "∞": r"$\infty$",
        "–": "--",
    }
)


def ranking_records(rows: Sequence[RankingRow]) -> list[dict[str, Any]]:
    """Returns the ranking as flat records of plain values, one a setting and task.

    A censored median has no value in `..._median` but its lower bound in `..._exceeds`.

    Args:
        rows: The ranking.
    """
    return [
        {
            "task": row.task,
            "rank": row.rank,
            "optimizer": row.label,
            "family": row.family,
            "escape": row.escape,
            "target": None if row.target is None else str(row.target),
            "runs": row.runs,
            "reached": row.reached,
            "censored": row.runs - row.reached if row.target else None,
            **_time_record("gradient_equivalents", row.gradient_equivalents),
            **_time_record("seconds", row.seconds),
            "seconds_rank": row.seconds_rank,
            "timing": row.timing,
            "train_loss": row.train_loss,
            row.validation_metric or "validation": row.validation,
            row.test_metric or "test": row.test,
            "steps": row.steps,
            "total_gradient_equivalents": row.total_gradient_equivalents,
            "total_seconds": row.total_seconds,
            "status": row.status,
            "setting": row.setting,
        }
        for row in rows
    ]


def csv_text(records: Iterable[Mapping[str, Any]]) -> str:
    """Returns records as CSV with the columns of all of them; None is an empty field.

    Args:
        records: Flat records.
    """
    records = list(records)
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def run_records(results: Results) -> list[dict[str, Any]]:
    """Returns one flat record a run, as `Results.runs_frame` has them.

    Args:
        results: The runs.
    """
    labels = results.labels()
    return [{"label": labels[run.setting], **run.record()} for run in results.runs]


def write_parquet(results: Results, path: Path) -> bool:
    """Writes the runs as Parquet if pandas and pyarrow are installed, and tells whether it did.

    Args:
        results: The runs.
        path: The file.
    """
    if any(importlib.util.find_spec(name) is None for name in ("pandas", "pyarrow")):
        return False
    frame = results.runs_frame()
    for name in frame.columns:
        frame[name] = _of_one_kind(list(frame[name]))
    with jsonio.writing(path):
        frame.to_parquet(path)
    return True


def _of_one_kind(values: list[Any]) -> list[Any]:
    """Values as a Parquet column can hold them: lists and dicts as JSON, and texts if there is any text."""
    values = [jsonio.dumps(value) if isinstance(value, list | dict) else value for value in values]
    known = [value for value in values if value is not None and value == value]
    if len({isinstance(value, str) for value in known}) < 2:
        return values
    return [None if value is None or value != value else str(value) for value in values]


def latex_tables(results: Results) -> str:
    """Returns one table a task for papers, in LaTeX with the package booktabs.

    Args:
        results: All runs.
    """
    parts = ["% Needs \\usepackage{booktabs}."]
    for task in results.tasks:
        parts.append(_latex_table(ranking_table(results.select(task=task)), task))
    return "\n\n".join(parts) + "\n"


def _latex_table(rows: Sequence[RankingRow], task: str) -> str:
    target = next((row.target for row in rows if row.target), None)
    validation = next((row.validation_metric for row in rows if row.validation_metric), None)
    heads = ["optimizer", "reached", "gradient-equivalents", seconds_title(rows), "final train loss"]
    heads += [f"best {metric(validation)}"] if validation else []
    lines = []
    for row in rows:
        cells = [
            row.label,
            f"{row.reached}/{row.runs}" if row.target else DASH,
            str(row.gradient_equivalents),
            str(row.seconds),
            number(row.train_loss),
            *([number(row.validation)] if validation else []),
        ]
        lines.append(" & ".join(cell.translate(_LATEX) for cell in cells) + r" \\")
    goal = f" Times are those to {target}: medians over seeds, with 95 % bootstrap intervals." if target else ""
    caption = f"{task}.{goal}"
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption.translate(_LATEX)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"    \toprule",
            "    " + " & ".join(head.translate(_LATEX) for head in heads) + r" \\",
            r"    \midrule",
            *("    " + line for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def _time_record(name: str, time: Time) -> dict[str, float | None]:
    return {
        f"{name}_median": time.value,
        f"{name}_low": time.low,
        f"{name}_high": time.high,
        f"{name}_exceeds": time.censored_at,
    }
