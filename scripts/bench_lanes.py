"""What lanes save: a sweep of 128 runs of a small network in lanes, and one run after another, in one process.

    python scripts/bench_lanes.py [--json docs/benchmarks/lanes_cpu.json] [--runs 128] [--epochs 1]

Both are the whole of what a sweep does: build, train, evaluate, record, checkpoint. The sequential sweep does a sample
of the runs in the same process, in turns with the lanes, and is scaled up; a process for each run, as a sweep without
lanes starts them, costs the start of a process more, which is measured on top. CPU time of one thread decides, so a
busy machine does not. Every lane is compared with its run alone.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
from bench_common import median, write_json

from hybridopt.experiment.config import RunConfig, resolve, to_plain
from hybridopt.experiment.job import run_directory, run_job
from hybridopt.experiment.jsonio import read_rows
from hybridopt.experiment.lanes_job import run_lanes
from hybridopt.experiment.lanes_plan import MOST
from hybridopt.experiment.layout import write_config

RATES = [10 ** (-4 + 0.2 * index) for index in range(16)]
SAMPLE = 8
"""Runs of the sequential sweep that are done in each round."""


def sweep(out: str, runs: int, task: str, epochs: float) -> list[RunConfig]:
    """Returns the configs of a sweep of Adam over rates and seeds."""
    settings = itertools.islice(itertools.product(range(-(-runs // len(RATES))), RATES), runs)
    return [
        resolve(
            {
                "task": task,
                "optimizer": {"name": "adam", "lr": rate},
                "seed": seed,
                "budget": {"epochs": epochs},
                "device": "cpu",
                "threads": 1,
                "out": out,
            }
        )
        for seed, rate in settings
    ]


def in_lanes(configs: list[RunConfig]) -> float:
    """Does runs in lanes, as many in a group as a sweep puts there; returns CPU seconds."""
    for config in configs:
        write_config(run_directory(config), to_plain(config))
    started = time.process_time()
    for first in range(0, len(configs), MOST):
        run_lanes([run_directory(config) for config in configs[first : first + MOST]], "on")
    return time.process_time() - started


def one_by_one(configs: list[RunConfig]) -> float:
    """Does runs one after another in this process; returns CPU seconds."""
    started = time.process_time()
    for config in configs:
        run_job(run_directory(config), config)
    return time.process_time() - started


def process_start(config: RunConfig) -> float:
    """Returns the CPU seconds of a job's process beyond those of the run itself."""
    write_config(run_directory(config), to_plain(config))
    before = os.times()
    subprocess.run([sys.executable, "-m", "hybridopt", "job", str(run_directory(config))], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def difference(alone: RunConfig, lane: RunConfig, steps: int = 20) -> float:
    """Returns the largest relative difference of the losses of the first steps."""
    pairs = zip(*(read_rows(run_directory(config) / "history.jsonl") for config in (alone, lane)), strict=True)
    losses = [(one["loss"], other["loss"]) for one, other in pairs if one["type"] == "step" and one["step"] <= steps]
    return max(abs(one - other) / abs(one) for one, other in losses)


def measure(task: str, runs: int, epochs: float, rounds: int) -> dict[str, float]:
    """Measures one task; returns CPU seconds and ratios."""
    together, alone, worst = [], [], 0.0
    with tempfile.TemporaryDirectory() as base, contextlib.redirect_stdout(None):
        one_by_one(sweep(f"{base}/warm", 1, task, epochs))
        for round_ in range(rounds):
            lanes = sweep(f"{base}/lanes{round_}", runs, task, epochs)
            plain = sweep(f"{base}/alone{round_}", runs, task, epochs)
            chosen = range(round_, runs, max(1, runs // SAMPLE))
            together.append(in_lanes(lanes))
            alone.append(one_by_one([plain[place] for place in chosen]) / len(chosen) * runs)
            worst = max(worst, *(difference(plain[place], lanes[place]) for place in chosen))
        whole = process_start(sweep(f"{base}/process", 1, task, epochs)[0])
    own = median(alone) / runs
    return {
        "runs": runs,
        "epochs": epochs,
        "lanes_seconds": median(together),
        "sequential_seconds": median(alone),
        "ratio": median([one / other for one, other in zip(alone, together, strict=True)]),
        "process_start_seconds": max(0.0, whole - own),
        "ratio_to_processes": runs * max(whole, own) / (median(together) + max(0.0, whole - own)),
        "largest_difference_in_20_steps": worst,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--runs", type=int, default=128)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {}
    for task, runs in (("residual_mlp", options.runs), ("digits_cnn", min(16, options.runs))):
        tasks[task] = found = measure(task, runs, options.epochs, options.rounds)
        print(f"{task}, Adam, {runs} runs of {options.epochs:g} epochs, one thread:")
        print(
            f"  one after another {found['sequential_seconds']:.1f} s, in lanes {found['lanes_seconds']:.1f} s of CPU"
        )
        print(f"  lanes are {found['ratio']:.2f} times as fast as one process that does the runs in turn,")
        print(f"  {found['ratio_to_processes']:.2f} times as fast as a process for each run; losses of 20 steps agree")
        print(f"  to {found['largest_difference_in_20_steps']:.1e}", flush=True)
    gate = tasks["residual_mlp"]["ratio"]
    print(json.dumps({"gate": 2.5, "ratio": round(gate, 2), "met": gate >= 2.5}))
    write_json(options.json, {"tasks": tasks, "gate": {"least": 2.5, "ratio": gate}})


if __name__ == "__main__":
    main()
