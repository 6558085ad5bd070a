"""What the training loop costs beside training: rows, limits, schedule, checkpoint, status.

    python scripts/bench_loop.py [--optimizers adam,sgd,newton_cg] [--epochs 25] [--rounds 9] [--clock wall|cpu]
                                 [--json FILE]

The task digits_cnn with its default budget, by turns in one process: a whole recorded run with its checkpoint at the
end, and the same batches, optimizer steps and evaluations in a bare loop that records nothing. Both are built outside
the clock.
Prints the median of the neighbours' ratios, and that of a second bare loop, which shows the noise. "inside" is the same
ratio put together from the pieces of further recorded runs: lower quartiles of draws, steps, evaluations, and of what
lies between them. A busy machine disturbs it less (but for the wait for the disk at the end); it leaves out that a step
may be slower after a row than after a step.
The target is 3 %, in "recorded"; on a busy machine take "inside". With --clock cpu, "recorded" leaves waiting for the
disk out, "inside" never does.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import statistics
import sys
import tempfile
import time
import unittest.mock
from pathlib import Path

import torch
from bench_common import machine, write_json

from hybridopt.experiment import loop
from hybridopt.experiment.build import build
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.evaluation import evaluate
from hybridopt.experiment.loop import Trainer
from hybridopt.experiment.store import RunStore
from hybridopt.objective import Objective

LIMIT = 1.03


def configuration(optimizer: str, epochs: int, seed: int):
    """Returns the config of a run on digits_cnn."""
    budget = {"epochs": epochs}
    return resolve({"task": "digits_cnn", "optimizer": optimizer, "budget": budget, "seed": seed, "device": "cpu"})


class Pieces:
    """Times what recorded runs do: draws, steps and evaluations, and between them the bookkeeping of each step.

    Lower quartiles of the pieces, each as often as it happens in a run, are what a busy machine hardly disturbs.
    """

    def __init__(self) -> None:
        self._times = collections.defaultdict(list)
        self._runs = 0
        self._since = self._elsewhere = 0.0
        self._kind: list[str] = []

    def watch(self, trainer: Trainer) -> contextlib.AbstractContextManager:
        """Puts clocks into a run that is to begin; returns a context for it."""
        parts = trainer.parts
        parts.optimizer.step, parts.data.draw = self._work(parts.optimizer.step), self._work(parts.data.draw)
        trainer.store.append = self._kinds("row", trainer.store.append)
        trainer.advance, trainer.finish = self._bookkeeping(trainer.advance), self._bookkeeping(trainer.finish, "end")
        self._runs += 1
        self._since, self._elsewhere, self._kind = time.perf_counter(), 0.0, ["begin"]
        return unittest.mock.patch.object(loop, "evaluate", self._work(self._kinds("evaluation", evaluate)))

    def ratio(self) -> float:
        """Returns the time of a run over that of its work."""
        spent = {True: 0.0, False: 0.0}
        for name, times in self._times.items():
            typical = sorted(times)[len(times) // 4]
            spent[isinstance(name, str)] += typical * len(times) / self._runs
        return sum(spent.values()) / spent[True]

    def _work(self, call):
        name = getattr(call, "__name__", "call")

        def inner(*arguments, **options):
            before = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                seconds = time.perf_counter() - before
                self._times[name].append(seconds)
                self._elsewhere += seconds

        return inner

    def _kinds(self, kind, call):
        def inner(*arguments, **options):
            self._kind.append(kind)
            return call(*arguments, **options)

        inner.__name__ = kind
        return inner

    def _bookkeeping(self, call, kind="step"):
        def inner(*arguments, **options):
            found = call(*arguments, **options)
            now = time.perf_counter()
            self._times[kind, *self._kind].append(now - self._since - self._elsewhere)
            self._since, self._elsewhere = time.perf_counter(), 0.0
            self._kind.clear()
            return found

        return inner


def recorded(optimizer: str, epochs: int, seed: int, clock) -> tuple[float, float]:
    """Returns the seconds of a recorded run and its last training loss."""
    trainer, seconds = _record(optimizer, epochs, seed, clock, contextlib.nullcontext)
    return seconds, trainer.latest["train_loss"]


def _record(optimizer: str, epochs: int, seed: int, clock, watch) -> tuple[Trainer, float]:
    config = configuration(optimizer, epochs, seed)
    with tempfile.TemporaryDirectory() as directory, RunStore(Path(directory) / "run", to_plain(config)) as store:
        trainer = Trainer(config, build(config), store)
        # The summary of a finished run evaluates the best model on all splits: that is evaluation, not bookkeeping.
        trainer.best.summary = lambda parts: {}
        with watch(trainer):
            before = clock()
            trainer.run()
            return trainer, clock() - before


def bare(optimizer: str, epochs: int, seed: int, clock) -> tuple[float, float]:
    """Returns the seconds of the same training with nothing recorded, and its last training loss."""
    config = configuration(optimizer, epochs, seed)
    parts = build(config)
    before = clock()
    parts.model.train()
    inputs, targets, key = parts.batches.batch(0)
    objective = Objective(parts.model, parts.task.loss, inputs, targets, key=key)
    per_epoch = parts.data.steps_per_epoch
    train = _losses(parts)
    step = 0
    while parts.data.epochs(step) < epochs:
        objective = parts.data.draw(objective, step)
        parts.optimizer.step(objective)
        step += 1
        if step % per_epoch == 0:
            train = _losses(parts)
    return clock() - before, train


def _losses(parts) -> float:
    with parts.optimizer.evaluation():
        train = evaluate(parts.model, parts.task, parts.splits.train)["loss"]
        evaluate(parts.model, parts.task, parts.splits.validation)
    return train


def main() -> int:
    """Runs the benchmark and prints its table; returns 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", default="adam,sgd,newton_cg")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a job of a sweep has by default
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    print(f"{machine()}\nclock: {options.clock}; the bare loop = 1; 'again' is a second bare one\n")
    print(f"{'optimizer':12} {'bare s':>7} {'again':>6} {'recorded':>8} {'inside':>7}")
    rows, missed = [], 0
    for name in options.optimizers.split(","):
        ratios: dict[str, list[float]] = {"again": [], "recorded": []}
        seconds, pieces = [], Pieces()
        for round_ in range(options.rounds + 1):
            base, loss = bare(name, options.epochs, round_, clock)
            again, _ = bare(name, options.epochs, round_, clock)
            run, same = recorded(name, options.epochs, round_, clock)
            if loss != same:
                raise SystemExit(f"{name}: the bare loop ends at {loss}, the run at {same}; they did not do the same.")
            if round_:  # the first round warms up
                seconds.append(base)
                ratios["again"].append(again / base)
                ratios["recorded"].append(run / base)
                _record(name, options.epochs, round_, clock, pieces.watch)
        ratio = {who: statistics.median(values) for who, values in ratios.items()}
        ratio["inside"] = pieces.ratio()
        shown = f"{ratio['again']:6.3f} {ratio['recorded']:8.3f} {ratio['inside']:7.3f}"
        print(f"{name:12} {statistics.median(seconds):7.2f} {shown}", flush=True)
        missed += ratio["recorded"] > LIMIT
        rows.append({"optimizer": name, "seconds": statistics.median(seconds), **ratio})
    write_json(options.json, {"benchmark": "loop", "clock": options.clock, "epochs": options.epochs, "rows": rows})
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
