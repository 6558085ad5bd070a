"""How far Kronecker-factored blocks are from the blocks of the Fisher matrix, layer by layer.

    python scripts/kfac_error.py [--samples N] [--steps T] [--train K] [--json FILE]

For an MLP, a CNN and recurrent networks (read out at the last step, and at every step) it prints the relative Frobenius
errors ``||approximation - block|| / ||block||`` of K-FAC and EK-FAC with every setting of weight sharing, against the
dense float64 block of the exact Fisher matrix, at initialization and after some steps of Adam. The networks are small
enough for the dense matrix and the data are random, so the figures say which assumptions hold, not how well a method
trains.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import hybridopt as ho
from hybridopt.curvature import EKFAC, KFAC, GaussNewton
from hybridopt.curvature.kronecker import KroneckerOperator

OPERATORS: dict[str, tuple[type[KFAC], str]] = {
    "kfac expand": (KFAC, "expand"),
    "kfac reduce": (KFAC, "reduce"),
    "kfac nearest": (KFAC, "nearest"),
    "ekfac expand": (EKFAC, "expand"),
    "ekfac reduce": (EKFAC, "reduce"),
    "ekfac nearest": (EKFAC, "nearest"),
}


class Recurrent(nn.Module):
    """A recurrent layer with a linear read-out at the last step or at every step."""

    def __init__(self, kind: type[nn.RNNBase], every: bool) -> None:
        super().__init__()
        self.cell, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 3)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits, of the last step or of all."""
        states = self.cell(x)[0]
        return self.head(states if self.every else states[:, -1])


def mlp() -> nn.Module:
    """Returns three dense layers."""
    return nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 3))


def cnn() -> nn.Module:
    """Returns two convolutions and a dense layer, for images of 8 x 8."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip


def problems(samples: int, steps: int) -> dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]]:
    """Returns model, inputs and labels by name."""

    def labels(*shape: int) -> Tensor:
        return torch.randint(0, 3, shape)

    made: dict[str, Callable[[], tuple[nn.Module, Tensor, Tensor]]] = {
        "MLP": lambda: (mlp(), torch.randn(samples, 8), labels(samples)),
        "CNN": lambda: (cnn(), torch.randn(samples, 1, 8, 8), labels(samples)),
    }
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        for every in (False, True):
            name = f"{kind.__name__} T={steps} {'every step' if every else 'last step'}"
            made[name] = lambda kind=kind, every=every: (
                Recurrent(kind, every),
                torch.randn(samples, steps, 4),
                labels(samples, steps) if every else labels(samples),
            )
    return made


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean over all rows of logits."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def block_errors(operator: KroneckerOperator, truth: Tensor) -> dict[str, float]:
    """Returns the relative Frobenius error of the block of every layer, by the layer's first parameter.

    Args:
        operator: The approximation.
        truth: The dense Fisher matrix.
    """
    dense = operator.dense()
    errors = {}
    for layer in operator.layers:
        place = operator.indices(layer).flatten()
        wanted = truth[place][:, place]
        errors[operator.parameter_names(layer)[0]] = float((dense[place][:, place] - wanted).norm() / wanted.norm())
    return errors


def measure(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, dict[str, float]]:
    """Returns the errors of all operators where the model stands."""
    objective = ho.Objective(model, cross_entropy, inputs, targets)
    truth = GaussNewton(objective).dense()  # equal to the Fisher matrix for this loss
    return {
        name: block_errors(operator(objective, kind="exact", setting=setting), truth)
        for name, (operator, setting) in OPERATORS.items()
    }


def show(title: str, found: dict[str, dict[str, float]]) -> None:
    """Prints one table."""
    print(f"\n{title}\n{'':24s}" + "".join(f"{name:>14s}" for name in found))
    for layer in next(iter(found.values())):
        print(f"{layer:24s}" + "".join(f"{errors[layer]:14.3f}" for errors in found.values()))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32, help="data in the batch")
    parser.add_argument("--steps", type=int, default=6, help="length of the sequences")
    parser.add_argument("--train", type=int, default=50, help="steps of Adam (1e-2) before the second measurement")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    results: dict[str, Any] = {"samples": args.samples, "steps": args.steps, "train": args.train, "errors": {}}
    for name, make in problems(args.samples, args.steps).items():
        torch.manual_seed(0)
        model, inputs, targets = make()
        before = measure(model, inputs, targets)
        objective = ho.Objective(model, cross_entropy, inputs, targets)
        optimizer = ho.create("adam", model.parameters(), lr=1e-2)
        for _ in range(args.train):
            optimizer.step(objective)
        after = measure(model, inputs, targets)
        show(f"{name}, at initialization", before)
        show(f"{name}, after {args.train} steps of Adam", after)
        results["errors"][name] = {"before": before, "after": after}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
