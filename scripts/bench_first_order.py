"""Times a training step of the first-order methods written here against the torch optimizer nearest to each.

    python scripts/bench_first_order.py [--methods lion,dog] [--batch 64] [--json FILE]

Model and data of the task digits_cnn, or with --wide an autoencoder of 2.8 million parameters, where the optimizer's
own arithmetic counts. Ours and the torch optimizer (also through step(objective)) run in turns in one process; the
order of each round is reversed in the next, and the ratio is that of the lower quartiles, which other load moves least.
On the CPU it is this process's processor time. What torch does not have is compared with a plain loop over lists of
tensors that does the same arithmetic (`bench_peers.py`).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_common import machine, synchronize, write_json
from bench_peers import PEERS, Bare
from torch import nn

import hybridopt as ho
from hybridopt import tasks

# Name and options, and what it is compared with: a torch class, by our name, or a plain loop.
PAIRS: dict[str, tuple[str, dict[str, Any], str]] = {
    "lion": ("lion", {}, "adamw"),
    "schedule_free": ("schedule_free", {}, "adamw"),
    "schedule_free sgd": ("schedule_free", {"flavour": "sgd", "lr": 0.1}, "momentum"),
    "dog": ("dog", {}, "momentum"),
    "sps": ("sps", {}, "momentum"),
    "lookahead": ("lookahead", {"inner": "adam"}, "adam"),
    "prodigy": ("prodigy", {}, "plain prodigy"),
    "swats": ("swats", {}, "plain swats"),
    "adam hypergradient": ("adam", {"hypergradient": 1e-8}, "plain hypergradient"),
    "sls": ("sls", {}, "plain sls"),
}


def stepper(name: str, options: dict[str, Any], batch: int, wide: bool) -> Callable[[], None]:
    """Returns one training step of an optimizer on a model of its own."""
    if wide:
        torch.manual_seed(0)
        sizes = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        model: nn.Module = nn.Sequential(*layers[:-1])
        inputs = targets = torch.rand(batch, 784)
        loss: Any = nn.functional.mse_loss
    else:
        task = tasks.create("digits_cnn")
        data = task.splits(0).train
        inputs, targets, model, loss = data.inputs[:batch], data.targets[:batch], task.model(0), task.loss
    if name in PEERS:
        return PEERS[name](Bare(model, loss, inputs, targets))
    objective = ho.Objective(model, loss, inputs, targets)
    optimizer = ho.create(name, model.parameters(), **options)

    def step() -> None:
        optimizer.step(objective.with_batch(inputs, targets))

    return step


def ratio(ours: Callable[[], None], theirs: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Returns the ratio of the lower quartiles, and the peer's, in seconds."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: tuple[list[float], list[float]] = ([], [])
    pair = [(0, ours), (1, theirs)]
    for round_ in range(rounds + 5):
        for index, run in pair if round_ % 2 else reversed(pair):
            synchronize()
            started = clock()
            run()
            synchronize()
            if round_ >= 5:
                times[index].append(clock() - started)
    mine, other = (statistics.quantiles(part, n=4)[0] for part in times)
    return mine / other, other


def main() -> int:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join(PAIRS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    print(f"{machine()}\nstep of the peer = 1\n")
    print(f"{'method':20} {'peer':20} {'peer ms':>8} {'noise':>6} {'ours':>6}")
    rows = []
    for method in options.methods.split(","):
        name, chosen, peer = PAIRS[method]
        steps = [
            stepper(what, given, options.batch, options.wide)
            for what, given in ((name, chosen), (peer, {}), (peer, {}))
        ]
        noise, _ = ratio(steps[2], steps[1], options.rounds)
        ours, seconds = ratio(steps[0], steps[1], options.rounds)
        print(f"{method:20} {peer:20} {seconds * 1e3:8.3f} {noise:6.3f} {ours:6.3f}", flush=True)
        rows.append({"method": method, "peer": peer, "noise": noise, "ours": ours})
    write_json(options.json, {"benchmark": "first_order", "wide": options.wide, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
