"""Times what optimizers cost beside the evaluations they ask for, against peers and against their own parts.

    python scripts/bench_optimizers.py [--parts lbfgs,first_order,newton_cg,memory] [--seconds 20]
        [--threads 1] [--clock wall|cpu] [--json FILE]

lbfgs        An iteration of L-BFGS outside evaluations, 1M parameters, 20 pairs, ours and torch.optim.LBFGS with strong
             Wolfe search, on equal models, iterations 26 to 45 from the same start. An evaluation is forward pass,
             backward pass and the copy of the gradient into one vector; putting trials in place is outside, as is the
             rest of the step. torch does five iterations a step, which spares it the checks at the beginning of four.
             "bound" is the time of reading the steps S, the changes Y and S again, as a sum reads them: what any exact
             evaluation of H v has to read where caches are smaller than S, since its first products with S must be
             complete before the rest can begin. torch's time over it is the ratio that nothing in torch can exceed.
first_order  A step of sgd and adam on digits_cnn, ours through `step(objective)` and bare torch.optim: the contenders
             of bench_overhead.py. "again" repeats the step just before it, so its code is in the caches: it shows that
             too, and not noise alone.
newton_cg    A step of newton_cg on digits_cnn, and the same evaluations and products alone: one `at()`, as many Hessian
             products, as many values.
memory       Peak of the allocator's memory during a gradient, and during a Hessian product with its kept graph.

Everything of one part runs in turns in one process; medians, and medians of the ratios of neighbours. On a busy machine
``--clock cpu`` with one thread counts the time on the processor, not the time spent waiting for it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_common import interleave, machine, median, write_json
from bench_overhead import contenders as overhead
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import hybridopt as ho
from hybridopt import tasks
from hybridopt.optimizers import long_rows

LBFGS_GATE = 2.0
FIRST_ORDER_GATE = 1.03
NEWTON_GATE = 1.1
MEMORY_GATE = 3.0
PAIRS = 20
ITERATIONS = 5
ROUNDS = 4


class Outside:
    """Times calls and, within them, an inner function; the difference is what happens outside of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.inside = 0.0
        self.evaluations = 0

    def wrap(self, function: Callable[..., Any], *, counted: bool = False) -> Callable[..., Any]:
        """Returns the function, its time added up, and its calls if they are the evaluations."""

        def timed(*arguments: Any, **named: Any) -> Any:
            before = self.clock()
            try:
                return function(*arguments, **named)
            finally:
                self.inside += self.clock() - before
                self.evaluations += counted

        return timed

    def measure(self, run: Callable[[], Any]) -> tuple[float, float, int]:
        """Returns seconds outside, seconds inside and evaluations of one call."""
        self.inside, self.evaluations = 0.0, 0
        before = self.clock()
        run()
        return self.clock() - before - self.inside, self.inside, self.evaluations


def million() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """Returns a model with 998,714 parameters whose evaluation on 16 samples is cheap, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(784, 1000),
        nn.Tanh(),
        nn.Linear(1000, 200),
        nn.Tanh(),
        nn.Linear(200, 64),
        nn.Tanh(),
        nn.Linear(64, 10),
    )
    inputs, targets = torch.randn(16, 784), torch.randint(0, 10, (16,))

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, wanted) + 1e-3 * sum(p.square().sum() for p in model.parameters())

    return model, loss, inputs, targets


class Contender:
    """An L-BFGS somewhere on its way, its 20 pairs complete: `ITERATIONS` iterations a call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.outside = Outside(clock)
        self.run: Callable[[], Any]

    def measure(self) -> tuple[float, float, int]:
        """Returns what `Outside.measure` does, of one call."""
        return self.outside.measure(self.run)


class Bare(Contender):
    """torch.optim.LBFGS; an evaluation is a closure and the flat copy of its gradient."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        model, loss, inputs, targets = million()
        optimizer = torch.optim.LBFGS(
            model.parameters(),
            max_iter=ITERATIONS,
            max_eval=1000,
            history_size=PAIRS,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(model(inputs), targets)
            value.backward()
            return value

        timed = self.outside.wrap(closure, counted=True)
        optimizer._gather_flat_grad = self.outside.wrap(optimizer._gather_flat_grad)
        self.memory = optimizer.state[optimizer.param_groups[0]["params"][0]]
        self.run = lambda: optimizer.step(timed)

    @property
    def iterations(self) -> int:
        """How many were done so far."""
        return self.memory["n_iter"]


class Ours(Contender):
    """hybridopt's; an evaluation is the forward pass and the flat gradient."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        model, loss, inputs, targets = million()
        outside = self.outside

        class Timed(ho.Objective):
            _forward = outside.wrap(ho.Objective._forward)
            differentiate = outside.wrap(ho.Objective.differentiate, counted=True)

        objective = Timed(model, loss, inputs, targets)
        optimizer = ho.create("lbfgs", model.parameters(), history=PAIRS)
        self.iterations = 0

        def run() -> None:
            for _ in range(ITERATIONS):
                optimizer.step(objective)
                self.iterations += optimizer.report.accepted

        self.run = run


class Bound(Contender):
    """The least that an iteration reads: one matrix of `PAIRS` rows twice, another one once."""

    def __init__(self, clock: Callable[[], float], n: int) -> None:
        super().__init__(clock)
        steps, changes = (long_rows.zeros(PAIRS, n, dtype=torch.float32, device=torch.device("cpu")) for _ in "sy")
        for matrix in (steps, changes):
            matrix.fill_(1.0)  # pages that were never written to are all one and the same
        self.run = lambda: [matrix.sum() for _ in range(ITERATIONS) for matrix in (steps, changes, steps)]


def lbfgs(seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Part ``lbfgs``."""
    rows = []
    bound = Bound(clock, sum(parameter.numel() for parameter in million()[0].parameters()))
    bound.run()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(rows) < 5:
        # Near the minimum torch's steps end before their iterations are done, so both begin again.
        theirs, ours = Bare(clock), Ours(clock)
        for _ in range(PAIRS // ITERATIONS + 1):
            theirs.run()
            ours.run()
        before = theirs.iterations, ours.iterations
        rows += [(theirs.measure(), ours.measure(), bound.measure()) for _ in range(ROUNDS)]
        done = theirs.iterations - before[0], ours.iterations - before[1]
        if done != (ROUNDS * ITERATIONS,) * 2:
            raise RuntimeError(f"{done} iterations were done instead of {ROUNDS * ITERATIONS} each.")
    per = 1e3 / ITERATIONS
    ratio = statistics.median(row[0][0] / row[1][0] for row in rows)
    return {
        "torch_outside_ms": median([row[0][0] for row in rows]) * per,
        "ours_outside_ms": median([row[1][0] for row in rows]) * per,
        "torch_least_ms": min(row[0][0] for row in rows) * per,
        "ours_least_ms": min(row[1][0] for row in rows) * per,
        "torch_evaluations": median([row[0][2] for row in rows]) / ITERATIONS,
        "ours_evaluations": median([row[1][2] for row in rows]) / ITERATIONS,
        "bound_ms": median([row[2][0] for row in rows]) * per,
        "bound_ratio": statistics.median(row[0][0] / row[2][0] for row in rows),
        "ours_of_bound": statistics.median(row[1][0] / row[2][0] for row in rows),
        "rounds": len(rows),
        "measured": ratio,
        "gate": f">= {LBFGS_GATE}",
        "passed": ratio >= LBFGS_GATE,
    }


def first_order(seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Part ``first_order``."""
    ratios = {}
    for name in ("sgd", "adam"):
        for fused in (False, True):
            times = interleave(overhead(name, 64, fused), seconds=seconds / 4, most=5000, clock=clock)
            for who in ("again", "ours"):
                label = f"{name}{' fused' if fused else ''} {who}"
                ratios[label] = statistics.median(a / b for a, b in zip(times[who], times["bare"], strict=True))
    worst = max(ratio for label, ratio in ratios.items() if label.endswith("ours"))
    return {
        **ratios,
        "measured": worst,
        "gate": f"<= {FIRST_ORDER_GATE}",
        "passed": worst <= FIRST_ORDER_GATE,
    }


def newton_cg(seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Part ``newton_cg``."""
    task = tasks.create("digits_cnn")
    data = task.splits(0).train
    inputs, targets = data.inputs[:256], data.targets[:256]
    model = task.model(0)
    objective = ho.Objective(model, task.loss, inputs, targets)
    optimizer = ho.create("newton_cg", model.parameters())
    start = objective.position()
    for _ in range(3):
        optimizer.step(objective)
    again, state = objective.position(), optimizer.state_dict()

    def step() -> None:
        objective.commit(again)
        optimizer.load_state_dict(state)
        optimizer.step(objective)

    step()
    before = objective.ledger.counts
    step()
    counts = {name: objective.ledger.counts[name] - before[name] for name in before}
    vector = torch.randn(len(start), generator=torch.Generator().manual_seed(0))

    def parts() -> None:
        objective.commit(again)
        optimizer.load_state_dict(state)
        objective.renew()
        with objective.at() as point:
            operator = point.hessian()
            for _ in range(counts["hvp"]):
                operator @ vector
        for _ in range(counts["forward"]):
            objective.value(again)

    times = interleave({"parts": parts, "again": parts, "step": step}, seconds=seconds, clock=clock)
    ratio = statistics.median(a / b for a, b in zip(times["step"], times["parts"], strict=True))
    return {
        "step_ms": median(times["step"]) * 1e3,
        "parts_ms": median(times["parts"]) * 1e3,
        "again": statistics.median(a / b for a, b in zip(times["again"], times["parts"], strict=True)),
        **{f"{name}s": count for name, count in counts.items() if count},
        "measured": ratio,
        "gate": f"<= {NEWTON_GATE}",
        "passed": ratio <= NEWTON_GATE,
    }


def peak(run: Callable[[], Any]) -> int:
    """Returns by how many bytes the allocator's memory rose at most during a call, after one to warm up."""
    run()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    # Every allocation and release, in order of time.
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    held = highest = 0
    for _, size in changes:
        held += size
        highest = max(highest, held)
    return highest


def memory(seconds: float, clock: Callable[[], float]) -> dict[str, Any]:
    """Part ``memory``; nothing is timed."""
    ratios = {}
    for name, size in (("digits_cnn", 256), ("digits_rnn", 64)):
        task = tasks.create(name)
        data = task.splits(0).train
        model = task.model(0)
        inputs, targets = data.inputs[:size], data.targets[:size]
        objective = ho.Objective(model, task.loss, inputs, targets)
        vector = torch.randn(objective.space.n, generator=torch.Generator().manual_seed(0))

        def gradient(objective: ho.Objective = objective) -> None:
            objective.renew()
            objective.value_and_grad()

        def product(objective: ho.Objective = objective, vector: Tensor = vector) -> None:
            objective.renew()
            with objective.at() as point:
                point.hessian() @ vector

        one, both = peak(gradient), peak(product)
        ratios[name] = {"gradient_mib": one / 2**20, "product_mib": both / 2**20, "ratio": both / one}
    worst = max(entry["ratio"] for entry in ratios.values())
    return {**ratios, "measured": worst, "gate": f"<= {MEMORY_GATE}", "passed": worst <= MEMORY_GATE}


PARTS = {"lbfgs": lbfgs, "first_order": first_order, "newton_cg": newton_cg, "memory": memory}


def main() -> int:
    """Runs the parts and prints measured figures against their gates; returns how many missed theirs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    print(machine())
    results = {}
    for name in options.parts.split(","):
        result = PARTS[name](options.seconds, clock)
        results[name] = result
        verdict = "ok" if result["passed"] else "MISSED"
        bound = f" (at most {result['bound_ratio']:.2f} possible)" if "bound_ratio" in result else ""
        print(f"\n{name}: measured {result['measured']:.3f}, gate {result['gate']}{bound}: {verdict}")
        for label, value in result.items():
            if isinstance(value, dict):
                print(f"  {label:24} " + ", ".join(f"{key} {figure:.2f}" for key, figure in value.items()))
            elif label not in ("measured", "gate", "passed"):
                print(f"  {label:24} {value:.3f}", flush=True)
    write_json(options.json, {"benchmark": "optimizers", "clock": options.clock, "parts": results})
    return sum(not result["passed"] for result in results.values())


if __name__ == "__main__":
    sys.exit(main())
