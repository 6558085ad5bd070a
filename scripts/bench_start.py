"""How long a run takes from its command to its first step.

    python scripts/bench_start.py [--rounds 5] [--json FILE]

Starts fresh processes for digits_cnn with Adam, the first of them not counted: `hybridopt job` on a directory that is
ready (what a sweep starts for every run), and `hybridopt run`, Hydra included. The clock stops when the row of the
first step is on the disk. The target is 4 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_common import machine, write_json

from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.store import RunStore

LIMIT = 4.0


def job(out: Path) -> float:
    """Returns the seconds of a job whose directory exists."""
    values = {"task": "digits_cnn", "optimizer": "adam", "budget": {"steps": 1}, "log_every": 1, "device": "cpu"}
    config = resolve({**values, "out": str(out)})
    directory = run_directory(config)
    RunStore(directory, to_plain(config)).close()
    return to_first_step(["job", str(directory)], out)


def run(out: Path) -> float:
    """Returns the seconds of a run from the command line."""
    settings = ["task=digits_cnn", "optimizer=adam", "budget.steps=1", "log_every=1", "device=cpu", f"out={out}"]
    return to_first_step(["run", *settings], out)


def to_first_step(arguments: list[str], out: Path) -> float:
    """Returns the seconds until a step's row is below a directory."""
    before = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hybridopt", *arguments], stdout=subprocess.DEVNULL)
    found = None
    while found is None:
        if _stepped(out):
            found = time.perf_counter() - before
        elif process.poll() is not None and not _stepped(out):
            raise SystemExit(f"hybridopt {arguments[0]} ended with {process.returncode} before its first step.")
        time.sleep(0.005)
    process.wait()
    return found


def _stepped(out: Path) -> bool:
    rows = [line for path in out.rglob("history.jsonl") for line in path.read_text().splitlines(keepends=True)]
    return any(json.loads(row)["type"] == "step" for row in rows if row.endswith("\n"))


def main() -> int:
    """Runs the benchmark and prints its table; returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    print(machine())
    seconds: dict[str, list[float]] = {"job": [], "run": []}
    for round_ in range(options.rounds + 1):
        for name, start in (("job", job), ("run", run)):
            with tempfile.TemporaryDirectory() as directory:
                taken = start(Path(directory))
            if round_:  # the first one reads the files from the disk
                seconds[name].append(taken)
    for name, values in seconds.items():
        print(f"hybridopt {name}: {statistics.median(values):.2f} s to the first step (worst {max(values):.2f})")
    write_json(options.json, {"benchmark": "start", "seconds": seconds})
    return 1 if max(map(statistics.median, seconds.values())) > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
