"""Minimizes from an exact strict saddle: the all-zero MLP 64-8tanh-10 on scikit-learn's digits, x/16, cross-entropy.

    python scripts/demo_saddle.py [--seeds 5]

Every gradient-based method stops there, at the entropy of the class prior; `hybridopt.minimize` says so instead of
reporting success, and with an escape it leaves.
"""

from __future__ import annotations

import argparse
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor

import hybridopt as ho


def main() -> int:
    """Runs all methods and prints a row each; returns 1 when one does not behave as the text above says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-cost", type=float, default=1500.0, help="gradient-equivalents for each run")
    options = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16), torch.tensor(labels)

    def loss(p: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(inputs @ p["W1"].T + p["b1"])
        return torch.nn.functional.cross_entropy(hidden @ p["W2"].T + p["b2"], targets)

    shapes = {"W1": (8, 64), "b1": (8,), "W2": (10, 8), "b2": (10,)}
    zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    wrong = 0
    print(f"{'method':20} {'escape':20} {'seed':>4} {'status':17} {'f':>10} {'lambda_min':>10} {'cost':>7} {'s':>5}")

    def row(method: str, escape: str | None, seed: int, good: str) -> None:
        nonlocal wrong
        result = ho.minimize(loss, zeros, method=method, escape=escape, seed=seed, max_cost=options.max_cost)
        lowest = "-" if result.min_eigenvalue is None else f"{result.min_eigenvalue:.4f}"
        print(
            f"{method:20} {escape or '-':20} {seed:4d} {result.status:17} {result.fun:10.6f} {lowest:>10} "
            f"{result.cost['gradient_equivalents']:7.0f} {result.cost['seconds']:5.1f}",
            flush=True,
        )
        wrong += not (result.status == "saddle_point" if good == "stays" else result.fun <= 0.05)

    for method in ("trust_newton_cg", "newton_cg", "lbfgs", "scipy:trust-krylov"):
        row(method, None, 0, "stays")
    for escape in ("perturbation", "negative_curvature", "neon"):
        for method in ("trust_newton_cg", "newton_cg", "lbfgs"):
            for seed in range(options.seeds):
                row(method, escape, seed, "leaves")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
