"""How long a run takes from its command to its first step.

    python scripts/bench_start.py [--rounds 5] [--compose 500] [--json FILE]

Starts fresh processes for digits_cnn with Adam, the first of them not counted: `hybridopt job` on a directory that is
ready (what a sweep starts for every run), and `hybridopt run`, Hydra included. The clock stops when the row of the
first step is on the disk. The target is 4 s.

``--compose N`` measures something else: the processor seconds in which a sweep of N jobs (two tasks, two optimizers,
two rates, many seeds) is composed and checked, from the command to the moment at which the first job could start but
for the tasks' data and the rehearsals; the target for 500 jobs is 15 s.
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
from typing import Any

from bench_common import machine, write_json

from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.job import run_directory
from hybridopt.experiment.store import RunStore

LIMIT = 4.0
COMPOSE_LIMIT = 15.0


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


def compose(jobs: int) -> dict[str, float]:
    """Returns the processor seconds of this process up to a sweep's composition, of that, and of its configs' check.

    Args:
        jobs: How many; a multiple of 8.
    """
    from hybridopt.cli import run
    from hybridopt.experiment.schema import LocalLauncher

    taken: dict[str, float] = {}
    launch = LocalLauncher.launch

    def launched(*arguments: Any, **options: Any) -> Any:
        taken["start"] = time.process_time()
        return launch(*arguments, **options)

    def sweep(session: run.Session, values: list[dict[str, Any]]) -> None:
        assert len(values) == jobs
        taken["composition"] = time.process_time() - taken["start"]
        for one in values:
            run_directory(resolve({**one, "plugins": []}))
        taken["checks"] = time.process_time() - taken["start"] - taken["composition"]

    LocalLauncher.launch, run.Session.sweep = launched, sweep  # type: ignore[method-assign,assignment]
    swept = ["task=digits_cnn,adding_rnn", "optimizer=adam,newton_cg", "optimizer.lr=0.1,0.2"]
    run.main(["-m", *swept, "device=cpu", f"seed=range(0,{jobs // 8})"], debug=False)
    return taken


def main() -> int:
    """Runs the benchmark and prints its table; returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--compose", type=int, metavar="JOBS")
    options = parser.parse_args()
    print(machine())
    if options.compose:
        taken = compose(options.compose // 8 * 8)
        print(", ".join(f"{name} {value:.1f} s" for name, value in taken.items()), "of processor time")
        write_json(options.json, {"benchmark": "compose", "jobs": options.compose // 8 * 8, "seconds": taken})
        return 1 if sum(taken.values()) > COMPOSE_LIMIT * max(1, options.compose / 500) else 0
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
