"""Problems that start at a saddle point, as a collection and as a task.

from hybridopt.tasks.saddles import problem, problems

origin = problem("octopus_5")
objective = origin.objective()
...
origin.left(objective.value())
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import UnknownNameError, option, suggest
from hybridopt.objective import Objective
from hybridopt.tasks import saddle_functions as functions
from hybridopt.tasks.base import Split, Splits, Target, Task, TaskConfig
from hybridopt.tasks.data import bundled

BATCH = 32
"""Default mini-batch of the task."""

Parts = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]
"""Model at the saddle, loss, inputs and targets, float64."""


@dataclass(frozen=True)
class SaddleProblem:
    """A function with a point where its gradient vanishes without its being a minimum, and a model that stands there.

    Attributes:
        name: Name.
        build: Returns model, loss, inputs and targets; functions without data have dummy samples.
        goal: A value at or below which the saddle, and those that may come after it, have been left.
        lr: A sensible rate of gradient descent: below the inverse of the largest curvature that it meets.
        strict: Whether the Hessian at the start has a negative eigenvalue; if not, higher derivatives lead down.
        summary: One line.
    """

    name: str
    build: Callable[[], Parts]
    goal: float
    lr: float
    strict: bool
    summary: str

    def objective(self, dtype: torch.dtype = torch.float64) -> Objective:
        """Returns the objective of all the data, with a fresh model at the saddle.

        Args:
            dtype: Of parameters and data.
        """
        model, loss, inputs, targets = self.build()
        targets = targets.to(dtype) if targets.is_floating_point() else targets
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        return Objective(model.to(dtype), loss, inputs, targets, key="all")

    def left(self, value: float) -> bool:
        """Tells whether a value is one that is only reached beyond the saddle; NaN is not.

        Args:
            value: Of the function on all the data.
        """
        return value <= self.goal


class AtPoint(nn.Module):
    """A function of one vector as a model: the vector is its parameter, the inputs are not looked at.

    Args:
        function: x of shape (n,) to a 0-dim tensor.
        start: Where x begins, shape (n,).
    """

    def __init__(self, function: Callable[[Tensor], Tensor], start: Tensor) -> None:
        super().__init__()
        self.function = function
        self.x = nn.Parameter(start.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the value, shape (1, 1).

        Args:
            inputs: Anything.
        """
        return self.function(self.x).reshape(1, 1)


class Factors(nn.Module):
    """A matrix as a product of two thin ones; an input is a pair of indices, the output that entry.

    Args:
        left: Start of the first factor, shape (rows, rank).
        right: Start of the second, shape (columns, rank); None for the first one again.
    """

    def __init__(self, left: Tensor, right: Tensor | None = None) -> None:
        super().__init__()
        self.left = nn.Parameter(left.clone())
        self.right = None if right is None else nn.Parameter(right.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns entries, shape (samples,).

        Args:
            inputs: Row and column of each, int64, shape (samples, 2).
        """
        right = self.left if self.right is None else self.right
        return (self.left[inputs[:, 0]] * right[inputs[:, 1]]).sum(1)


class Intensity(nn.Module):
    """Phase retrieval: outputs are squares of linear measurements.

    Args:
        start: Where the unknown begins, shape (n,).
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns ``(a'x)^2``, shape (samples,).

        Args:
            inputs: Measurement vectors a, shape (samples, n).
        """
        return (inputs @ self.x).square()


def value_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the sum of the outputs: the loss of a model that is itself the function.

    Args:
        outputs: Any shape.
        targets: Not looked at.
    """
    return outputs.sum()


def _function(function: Callable[[Tensor], Tensor], n: int) -> Callable[[], Parts]:
    # As many samples as a mini-batch, all of them nothing, so that a step of any method sees the function.
    zero = torch.zeros(BATCH, 1, dtype=torch.float64)
    return lambda: (AtPoint(function, torch.zeros(n, dtype=torch.float64)), value_of, zero, zero)


def _octopus(d: int, L: float) -> SaddleProblem:
    lowest, drop = functions.octopus_minimum(d, L), functions.octopus_drop(L)
    name = f"octopus_{d}" + ("" if L == 1.0 else f"_{L:g}")
    build = _function(lambda x: functions.octopus(x, L), d)
    return SaddleProblem(name, build, lowest + 1e-3 * drop, 1 / (4 * L), True, f"{d} saddles in a row (Du et al. 2017)")


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _zero_net(*widths: int, activation: type[nn.Module] | None = nn.Tanh, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias)] + ([activation()] if activation else [])
    model = nn.Sequential(*(layers[:-1] if activation else layers)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def _digits(*hidden: int) -> Callable[[], Parts]:
    def build() -> Parts:
        pixels, labels = bundled.digits()
        inputs, targets = torch.from_numpy(pixels.reshape(-1, 64) / 16), torch.from_numpy(labels)
        model = _zero_net(64, *hidden, 10)
        # Then the gradient vanishes: the last bias fits the shares of the classes.
        with torch.no_grad():
            model[-1].bias.copy_((targets.bincount().double() / len(targets)).log())
        return model, nn.functional.cross_entropy, inputs, targets

    return build


def _linear_net(depth: int) -> Callable[[], Parts]:
    def build() -> Parts:
        inputs = _random(400, 4, seed=0)
        targets = inputs @ _random(4, 2, seed=1)
        widths = [4] * depth + [2]
        return _zero_net(*widths, activation=None, bias=False), nn.functional.mse_loss, inputs, targets

    return build


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = matrix.shape
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns)), matrix.reshape(-1)


def _matrix_factorization() -> Parts:
    matrix = _random(12, 3, seed=2) @ _random(3, 10, seed=3)
    factors = Factors(torch.zeros(12, 3, dtype=torch.float64), torch.zeros(10, 3, dtype=torch.float64))
    return factors, nn.functional.mse_loss, *_entries(matrix)


def _low_rank() -> Parts:
    basis = torch.linalg.qr(_random(10, 3, seed=4)).Q
    roots = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    matrix = basis * roots.square() @ basis.T
    # Right in two of three directions: stationary, and rank-deficient.
    start = basis * torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64)
    return Factors(start), nn.functional.mse_loss, *_entries(matrix)


def _phase_retrieval() -> Parts:
    inputs = _random(200, 10, seed=5)
    truth = _random(10, seed=6)
    targets = (inputs @ (truth / truth.norm())).square()
    return Intensity(torch.zeros(10, dtype=torch.float64)), nn.functional.mse_loss, inputs, targets


_PROBLEMS: dict[str, SaddleProblem] = {
    entry.name: entry
    for entry in [
        SaddleProblem(
            "plane", _function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, 2), -0.499, 0.1, True,
            "x^2 - y^2 + y^4/2",
        ),
        *(_octopus(d, L) for d in (5, 10) for L in (1.0, 1.5, 2.0, 3.0)),
        SaddleProblem(
            "w_shape", _function(functions.w_shape, 2), -0.0053, 0.04, True, "W-shape of Tripuraneni et al. 2018"
        ),
        SaddleProblem(
            "single_descent", _function(functions.single_descent, 1000), -0.249, 0.5, True,
            "one way down among 1,000 (Jin et al. 2017)",
        ),
        SaddleProblem(
            "linear_net", _linear_net(2), 0.05, 0.1, True, "linear network of two layers, zero weights, 400 samples"
        ),
        SaddleProblem(
            "matrix_factorization", _matrix_factorization, 0.01, 1.0, True, "U V' = M of rank 3, from zero factors"
        ),
        SaddleProblem(
            "low_rank", _low_rank, 1e-4, 0.5, True, "U U' = M of rank 3, from the factor of rank 2"
        ),
        SaddleProblem(
            "phase_retrieval", _phase_retrieval, 0.01, 0.03, True, "squares of 200 measurements, from zero"
        ),
        SaddleProblem(
            "digits", _digits(8), 1.0, 0.5, True, "one hidden layer, zero weights, scikit-learn's 8x8 digits"
        ),
        SaddleProblem("monkey", _function(functions.monkey, 2), -6.7, 0.02, False, "monkey saddle in a bowl"),
        SaddleProblem(
            "linear_net_3", _linear_net(3), 0.5, 0.1, False, "linear network of three layers, zero weights"
        ),
        SaddleProblem(
            "digits_deep", _digits(8, 8), 2.0, 0.5, False, "two hidden layers, zero weights, 8x8 digits"
        ),
    ]
}  # fmt: skip


def problem(name: str) -> SaddleProblem:
    """Returns a problem by name.

    Args:
        name: Such as ``"octopus_5"``.

    Raises:
        UnknownNameError: If there is no such problem.

    Example:
        >>> problem("phase_retrieval").strict
        True
    """
    if name not in _PROBLEMS:
        known = ", ".join(_PROBLEMS)
        raise UnknownNameError(f"There is no saddle problem {name!r}.{suggest(name, _PROBLEMS)} Known: {known}.")
    return _PROBLEMS[name]


def problems(strict: bool | None = None) -> list[SaddleProblem]:
    """Returns all problems.

    Args:
        strict: Only those with negative curvature at the start, or only those without; None for all.
    """
    return [entry for entry in _PROBLEMS.values() if strict is None or entry.strict == strict]


class SaddleTask(Task):
    """Starts exactly at a saddle point; done when that is left. For optimizers with an escape.

    The training data are all there is; validation and test are the same samples. Best in ``dtype=float64``.
    """

    name = "saddle"
    summary = "a problem that starts at a saddle point: octopus_5, digits, phase_retrieval, ..."

    @dataclass
    class Config(TaskConfig):
        """Options of `SaddleTask`.

        Args:
            batch_size: Mini-batch; functions have 32 samples that are all alike.
            epochs: Default budget.
            problem: Name of the problem.
        """

        batch_size: int = option(BATCH, ge=1, help="mini-batch of optimizers that step on few samples")
        epochs: float = option(1000.0, gt=0, help="default budget")
        problem: str = option("digits", help="name of the problem")

    config: Config

    def __init__(self, config: TaskConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.problem = problem(self.config.problem)
        self.targets = (Target("train_loss", self.problem.goal, "min"),)

    def build_splits(self, seed: int) -> Splits:
        """Returns all data three times.

        Args:
            seed: Has no effect.
        """
        _, _, inputs, targets = self.problem.build()
        split = Split(inputs, targets)
        return Splits(split, split, split)

    def build_model(self) -> nn.Module:
        """Returns the model at the saddle."""
        return self.problem.build()[0]

    def model(self, seed: int = 0) -> nn.Module:
        """Returns the model at the saddle, float64, which is exact.

        Args:
            seed: Has no effect.
        """
        return self.build_model()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the problem's value.

        Args:
            outputs: Of the model.
            targets: That belong to them.
        """
        return self._loss_fn(outputs, targets)

    @cached_property
    def _loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        # Not at construction: building the digits reads their file.
        return self.problem.build()[1]

    def trivial_loss(self, splits: Splits) -> float:
        """Returns the value at the saddle.

        Args:
            splits: What `splits` returned.
        """
        return self.problem.objective().value()
