"""What preconditioners save: conjugate gradients on damped Gauss-Newton matrices of the bundled tasks.

For each task and damping: iterations until the quadratic model has 99 % of its whole decrease (on the grid 1.3^j of
the iterates that Hessian-free optimization keeps), and what they cost with all that the preconditioner is made from,
in gradients of the same batch. Counts only, so a busy machine does not matter. The system is that of the second of two
Newton steps after some steps of Adam; `lbfgs` has its pairs from the first.

    python scripts/bench_preconditioners.py [--steps 30] [--samples 200] [--size 20] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

import hybridopt as ho
from hybridopt.curvature.preconditioners import registry
from hybridopt.linalg import cg
from hybridopt.objective.ledger import WEIGHTS
from hybridopt.optimizers.preconditioned import PreconditionedConfig, Preconditioning
from hybridopt.tasks import registry as tasks

TASKS = ("digits_cnn", "digits_rnn", "adding_rnn")
DAMPINGS = (1e-1, 1e-3, 1e-5)
LIMIT = 500


def objective_of(name: str, samples: int, steps: int, seed: int) -> ho.Objective:
    """Returns the objective of a task's first training samples, after some steps of Adam on them."""
    task = tasks.get(name)()
    train = task.splits(seed).train
    inputs, targets = train.inputs[:samples].double(), train.targets[:samples]
    targets = targets.double() if targets.is_floating_point() else targets
    objective = ho.Objective(task.model(seed).double(), task.loss, inputs, targets)
    optimizer = ho.create("adam", objective.model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.step(objective)
    return objective


def optimizer_of(name: str, size: int) -> Any:
    """Returns what a preconditioner needs of an optimizer: its options and its memory."""
    return SimpleNamespace(config=PreconditionedConfig(preconditioner=name, preconditioner_size=size), memory={})


def second_steps(objective: ho.Objective, damping: float, size: int) -> dict[str, tuple[int, float]]:
    """Returns iterations and cost of the second of two Newton steps, with every preconditioner."""
    origin = objective.position()
    learner = optimizer_of("lbfgs", size)
    with objective.at() as point:
        first = Preconditioning(learner, point, point.gauss_newton(), damping)
        step = cg(first.operator, -point.gradient, stop="progress", rtol=1e-10, max_iter=LIMIT)
        first.close()
    objective.commit(origin + step.solution)
    found = {}
    with objective.at() as point:
        exact = cg(point.gauss_newton() + damping * ho.curvature.Identity(), -point.gradient, rtol=1e-6, max_iter=LIMIT)
        for name in ("none", *registry):
            paid = dict(objective.ledger.calls)
            optimizer = learner if name == "lbfgs" else optimizer_of(name, size)
            system = Preconditioning(optimizer, point, point.gauss_newton(), damping)
            made = sum(WEIGHTS[kind] * (count - paid[kind]) for kind, count in objective.ledger.calls.items())
            result = cg(
                system.operator, -point.gradient, rtol=1e-8, max_iter=LIMIT, preconditioner=system.inverse,
                keep_iterates=True,
            )  # fmt: skip
            enough = (i for i, _, decrease in result.iterates if decrease >= 0.99 * exact.model_decrease)
            iterations = next(enough, LIMIT)
            found[name] = iterations, made + WEIGHTS["ggnvp"] * iterations
    objective.commit(origin)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="steps of Adam before")
    parser.add_argument("--samples", type=int, default=200, help="training samples")
    parser.add_argument("--size", type=int, default=20, help="preconditioner_size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    console = Console(width=110)
    for task in TASKS:
        objective = objective_of(task, options.samples, options.steps, options.seed)
        title = f"{task}, {objective.space.n} parameters: iterations (gradients paid)"
        table = Table("damping", "none", *registry, title=title)
        for damping in DAMPINGS:
            found = second_steps(objective, damping, options.size)
            figures.setdefault(task, {})[f"{damping:g}"] = {
                name: {"iterations": iterations, "gradients": round(cost, 1)}
                for name, (iterations, cost) in found.items()
            }
            table.add_row(f"{damping:g}", *(f"{iterations} ({cost:.0f})" for iterations, cost in found.values()))
        console.print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
