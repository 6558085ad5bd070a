"""Times a training step of first-order optimizers through the interface against bare torch.optim.

    python scripts/bench_overhead.py [--optimizers adam,sgd] [--batches 64,8] [--json FILE]

Model and data of the task digits_cnn. Bare: zero_grad, forward, backward, step. Ours: with_batch, step(objective).
Both run in turns in one process on equal copies of the model; medians, and medians of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import torch
from bench_common import interleave, machine, median, write_json

import hybridopt as ho
from hybridopt import tasks

LIMIT = 1.05


def contenders(name: str, batch: int, fused: bool) -> dict[str, Any]:
    """Returns the same training step three times: bare, bare again, and ours."""
    task = tasks.create("digits_cnn")
    data = task.splits(0).train
    inputs, targets = data.inputs[:batch], data.targets[:batch]
    lr = 1e-4
    options = {"lr": lr} | ({"fused": True} if fused else {})

    def bare() -> Any:
        model = task.model(0)
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name](model.parameters(), **options)

        def step() -> None:
            optimizer.zero_grad()
            loss = task.loss(model(inputs), targets)
            loss.backward()
            optimizer.step()

        return step

    model = task.model(0)
    objective = ho.Objective(model, task.loss, inputs, targets)
    optimizer = ho.create(name, model.parameters(), **options)

    def ours() -> None:
        optimizer.step(objective.with_batch(inputs, targets))

    return {"bare": bare(), "again": bare(), "ours": ours}


def main() -> int:
    """Runs the benchmark and prints its table; returns 1 when the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizers", default="adam,sgd")
    parser.add_argument("--batches", default="64,8")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json")
    options = parser.parse_args()
    print(f"{machine()}\nbare torch.optim = 1; 'again' is a second bare one and shows the noise\n")
    print(f"{'optimizer':10} {'batch':>5} {'fused':>5} {'bare ms':>8} {'again':>6} {'ours':>6}")
    rows, missed = [], 0
    for name in options.optimizers.split(","):
        for batch in map(int, options.batches.split(",")):
            for fused in (False, True):
                times = interleave(contenders(name, batch, fused), seconds=options.seconds, most=5000)
                ratio = {
                    who: statistics.median(a / b for a, b in zip(times[who], times["bare"], strict=True))
                    for who in ("again", "ours")
                }
                print(
                    f"{name:10} {batch:5d} {fused!s:>5} {median(times['bare']) * 1e3:8.3f} {ratio['again']:6.3f} "
                    f"{ratio['ours']:6.3f}",
                    flush=True,
                )
                missed += name == "adam" and batch == 64 and ratio["ours"] > LIMIT
                rows.append({"optimizer": name, "batch": batch, "fused": fused, **ratio})
    write_json(options.json, {"benchmark": "overhead", "rows": rows})
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
