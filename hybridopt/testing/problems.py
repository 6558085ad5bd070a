"""Tiny problems that optimizers are tried on: under 200 parameters, a few dozen samples, the same in every process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.objective import Objective


def plain() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def with_dropout() -> nn.Module:
    """Two layers with dropout between them."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


def with_batch_norm() -> nn.Module:
    """Two layers with batch normalization between them."""
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def with_both() -> nn.Module:
    """Two layers with batch normalization and dropout between them."""
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


def frozen() -> nn.Module:
    """Two layers, the weight of the first frozen."""
    model = plain()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    return model


class Tied(nn.Module):
    """Two layers with one weight, and a third that uses it transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to outputs.

        Args:
            x: Shape (samples, 4).
        """
        return self.decoder(torch.tanh(self.encoder(x) @ self.encoder.weight))


class Shared(nn.Module):
    """One submodule under two names and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to outputs.

        Args:
            x: Shape (samples, 4).
        """
        return self.last(torch.tanh(self.again(torch.tanh(self.first(x)))))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "dropout": with_dropout,
    "batch_norm": with_batch_norm,
    "both": with_both,
}


@dataclass
class Training:
    """A model, a data set of a few dozen samples, and the objective on it.

    Attributes:
        model: The model.
        inputs: Shape (samples, 4).
        targets: What the loss compares with.
        objective: On all samples.
    """

    model: Any
    inputs: Tensor
    targets: Tensor
    objective: Objective

    def batch(self, step: int, size: int = 8) -> Objective:
        """Returns the objective of the mini-batch of a step; the same in every process.

        Args:
            step: Number of the step.
            size: Samples in it.
        """
        start = step * size % len(self.inputs)
        rows = slice(start, start + size)
        return self.objective.with_batch(self.inputs[rows], self.targets[rows], key=f"batch-{start}")

    def parameters(self) -> list[Tensor]:
        """Returns copies of the parameters."""
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def training(
    model: Callable[[], nn.Module] | str = plain, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Training:
    """Builds a classification of 24 random points into three classes, always the same for a seed.

    Args:
        model: Makes the model, or its name in `MODELS`.
        dtype: Of parameters and inputs.
        seed: Of parameters and data; the global generator stands at ``seed + 1`` afterwards.
    """
    torch.manual_seed(seed)
    module = (MODELS[model] if isinstance(model, str) else model)().to(dtype)
    inputs, targets = torch.randn(24, 4, dtype=dtype), torch.randint(0, 3, (24,))
    objective = Objective(module, nn.functional.cross_entropy, inputs, targets, key="all")
    torch.manual_seed(seed + 1)
    return Training(module, inputs, targets, objective)


def regression(model: Callable[[], nn.Module], *, outputs: int, seed: int = 0) -> Training:
    """Builds a regression on 24 random points in float64.

    Args:
        model: Makes the model, from 4 inputs.
        outputs: How many it has.
        seed: Of parameters and data.
    """
    torch.manual_seed(seed)
    module = model().double()
    inputs, targets = torch.randn(24, 4, dtype=torch.float64), torch.randn(24, outputs, dtype=torch.float64)
    objective = Objective(module, nn.functional.mse_loss, inputs, targets, key="all")
    return Training(module, inputs, targets, objective)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from hybridopt.tasks.data import bundled

    pixels, classes = bundled.digits()
    images = torch.from_numpy(pixels[:120]).float().reshape(120, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    return (images - images.mean()) / images.std(), torch.from_numpy(classes[:120])


def digits() -> Training:
    """Builds a classification of 120 of scikit-learn's handwritten digits, averaged to 4 x 4 pixels, by two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 10))
    inputs, targets = _digits()
    objective = Objective(model, nn.functional.cross_entropy, inputs, targets, key="all")
    return Training(model, inputs, targets, objective)


class Valley(nn.Module):
    """Rosenbrock's function as a least-squares problem, so that methods of Gauss-Newton type can be tried too.

    Its parameter x = (-1.2, 1) is a vector, which a layer turns into the residuals 10 (x2 - x1^2) and 1 - x1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def forward(self, scale: Tensor) -> Tensor:
        """Returns the residuals, shape (2,).

        Args:
            scale: (10, 1).
        """
        return scale * torch.stack([self.x[1] - self.x[0] ** 2, 1 - self.x[0]])


def valley() -> Training:
    """Returns Rosenbrock's function from its usual start; the minimum, 0, is at (1, 1)."""
    model, scale = Valley(), torch.tensor([10.0, 1.0], dtype=torch.float64)
    objective = Objective(model, lambda r: (r**2).sum(), scale, samples=1, key="all")
    return Training(model, scale, scale, objective)


def run(optimizer: Any, problem: Training, steps: range, *, full: bool = False) -> list[float]:
    """Does some steps and returns their losses.

    Args:
        optimizer: What steps.
        problem: On what.
        steps: Numbers of the steps, which say their mini-batches.
        full: Whether every step sees all samples.
    """
    return [float(optimizer.step(problem.objective if full else problem.batch(step))) for step in steps]


def function(formula: Callable[[Any], Tensor], start: Any, dtype: torch.dtype = torch.float64) -> Objective:
    """Returns the objective of a formula from a list of numbers.

    Args:
        formula: Of one tensor.
        start: Numbers.
        dtype: Of the tensor.
    """
    return Objective.from_function(formula, torch.as_tensor(start, dtype=dtype))
