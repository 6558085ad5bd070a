"""How long it takes to load and report many finished runs.

    python scripts/bench_report.py [--runs 1000] [--figures]

Writes synthetic runs into a temporary directory: settings with 10 seeds each on two tasks, with step rows, evaluations
and events as the training loop writes them. Prints the seconds for loading with every row read, for the report, and
their sum. The target is 30 s for 1000 runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hybridopt import results
from hybridopt.report import write_report
from tests.synthetic_runs import TASKS, Method, write_run

SEEDS = 10
LIMIT = 30.0


def write(root: Path, runs: int) -> int:
    """Writes at least so many runs and returns how many there are."""
    settings = -(-runs // (SEEDS * len(TASKS)))
    for place in range(settings):
        options = {"lr": 10.0 ** (-3 + 3 * (place % 5) / 4), "momentum": place // 5 / 100}
        method = Method("sgd", "first-order", 0.02 + 0.01 * place, 20, {"gradient": 1}, 0.05, options=options)
        for task in TASKS:
            for seed in range(SEEDS):
                write_run(root, task, method, seed, timing="exclusive", every=10)
    return settings * SEEDS * len(TASKS)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="how many runs")
    parser.add_argument("--figures", action="store_true", help="write the figures as SVG too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        amount = write(root, options.runs)
        start = time.perf_counter()
        loaded = results.load(root)
        rows = sum(len(run.rows) for run in loaded)
        middle = time.perf_counter()
        paths = write_report(root, figures=["svg"] if options.figures else [])
        end = time.perf_counter()
        size = paths.html.stat().st_size / 1e6
    print(f"{amount} runs, {rows:,} rows, page {size:.1f} MB")
    print(f"load {middle - start:6.2f} s")
    print(f"report {end - middle:4.2f} s (loads once more)")
    verdict = "within" if end - middle <= LIMIT else "ABOVE"
    print(f"loading and reporting: {end - middle:.2f} s, {verdict} {LIMIT:.0f} s")


if __name__ == "__main__":
    main()
