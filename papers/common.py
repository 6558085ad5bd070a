"""What the scripts of all papers share: a sweep through `hybridopt run`, then results, figure and tables.

A paper's folder holds ``conf/experiment/*.yaml``, maybe ``parts.py`` (a plugin), ``make_figures.py`` with ``collect``,
``tables`` and ``draw``, a ``reproduce.py`` that calls `main`, and ``README.md`` with marks where tables go.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hybridopt import cli
from hybridopt.core import HybridoptError
from hybridopt.report.plots import need_matplotlib
from hybridopt.results import Results, Run, load


def main(script: str, experiments: Sequence[str], *, quick: Sequence[str]) -> int:
    """Reproduces a paper as the command line asks for it: the whole of every ``reproduce.py``.

    Args:
        script: The paper's ``reproduce.py``.
        experiments: Names of its files in ``conf/experiment``, in the order of their runs.
        quick: Overrides of a small version, which shows that all works and not what the paper says.

    Returns:
        The exit code: that of the first sweep that was not done whole, 2 if what was asked for is wrong.
    """
    folder = Path(script).resolve().parent
    parser = argparse.ArgumentParser(
        prog=f"hybridopt paper {folder.name}",
        description="Runs everything of this folder, or what of it is missing, and writes results.json, figure.png and "
        "the README's tables; with --quick or overrides into results/ beside the runs instead.",
    )
    parser.add_argument("--quick", action="store_true", help=f"a small version: {' '.join(quick)}")
    parser.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="of hybridopt run: seed=0, launcher.slots=1, out=DIR"
    )
    given = parser.parse_intermixed_args()
    out = [f"out=outputs/papers/{folder.name}-quick", *quick] if given.quick else []
    sys.path.insert(0, str(folder))
    return reproduce(folder, experiments, importlib.import_module("make_figures"), [*out, *given.overrides])


def reproduce(folder: Path, experiments: Sequence[str], figures: ModuleType, arguments: Sequence[str]) -> int:
    """Runs a paper's experiments and writes its results; runs that are there already are not done again.

    Results go into the paper's folder if all was run as it stands there, otherwise beside the runs.

    Args:
        folder: The paper's.
        experiments: Names of its files in ``conf/experiment``.
        figures: Its module ``make_figures``.
        arguments: Overrides of the command line, such as ``seed=0`` or ``out=DIR``.

    Returns:
        The exit code.
    """
    out, overrides = f"outputs/papers/{folder.name}", []
    for text in arguments:
        if text.startswith("out="):
            out = text.removeprefix("out=")
        else:
            overrides.append(text)
    changed = [text for text in overrides if not text.startswith(("launcher", "tracker", "retry"))]
    try:
        need_matplotlib()
    except HybridoptError as error:
        print(error, file=sys.stderr)
        return 2
    plugin = ["--plugin", str(folder / "parts.py")] if (folder / "parts.py").exists() else []
    for name in experiments:
        # In this process, which Ctrl-C reaches once: the sweep's jobs are processes of their own and save themselves.
        command = ["run", "--config-dir", str(folder / "conf"), *plugin, f"experiment={name}", *overrides, f"out={out}"]
        code = cli.main(command)
        if code:
            return code
    written = write(load(out), figures, folder, Path(out) / "results" if changed else folder)
    print("\n".join(f"written: {path}" for path in written))
    return 0


def write(results: Results, figures: ModuleType, folder: Path, into: Path) -> list[Path]:
    """Writes ``results.json``, ``figure.png`` and, into a README that is there, the tables.

    Args:
        results: The runs.
        figures: The paper's module ``make_figures``.
        folder: The paper's.
        into: Where to.

    Returns:
        What was written.
    """
    into.mkdir(parents=True, exist_ok=True)
    data = {"paper": folder.name, "machine": machine(results.runs), **figures.collect(results)}
    paths = [into / "results.json", into / "figure.png"]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    figures.draw(results, paths[1])
    readme = into / "README.md"
    if readme.exists():
        readme.write_text(filled(readme.read_text(), figures.tables(data)))
        paths.append(readme)
    return paths


def filled(text: str, tables: dict[str, str]) -> str:
    """Returns a text with every table put between its marks, ``<!-- NAME -->`` and ``<!-- end NAME -->``.

    Args:
        text: Of a README.
        tables: Markdown by name.

    Raises:
        ValueError: If the text lacks the marks of a table.
    """
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
        if count != 1:
            raise ValueError(
                f"The README needs <!-- {name} --> and <!-- end {name} --> once each, on lines of their own."
            )
    return text


def machine(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns on what the runs were made, from their own records.

    Args:
        runs: Of one experiment.
    """
    first = runs[0].provenance
    seconds = sum(run.end("seconds") or 0.0 for run in runs)
    facts = {key: first.get(key) for key in ("cpu", "cores", "threads", "device", "timing")}
    versions = {key: first["versions"].get(key) for key in ("python", "torch", "hybridopt")}
    return {**facts, **versions, "runs": len(runs), "training_seconds": round(seconds)}


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table in Markdown.

    Args:
        head: Titles.
        rows: Cells.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
