"""Every registered optimizer, the adapters, and tiny problems that they are tried on.

An invariant that all optimizers share is a check of `hybridopt.testing`, or, where it is a matter of this library
alone, one parametrized test over `METHODS`; an optimizer that is registered later is in both without another line. Its
options in these tests, if its defaults show nothing in a few steps, stand in `hybridopt.testing.settings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.tasks.functions import problem
from hybridopt.testing import SETTINGS
from hybridopt.testing.problems import MODELS, Training, function, plain, run, training
from hybridopt.testing.states import assert_same_state, flat_state

__all__ = ["MODELS", "Training", "assert_same_state", "flat_state", "function", "plain", "run", "training"]

# Methods whose default matrix is Gauss-Newton's.
ON_OUTPUTS = ("hessian_free", "gauss_newton", "levenberg_marquardt")


@dataclass(frozen=True)
class Method:
    """One optimizer as the tests use it.

    Attributes:
        name: What `hybridopt.create` is given.
        options: Its options here: few and small, so that a step is cheap.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def create(self, params: Any, escape: Any = None, **more: Any) -> Any:
        return ho.create(self.name, params, escape=escape, **{**self.options, **more})

    def minimize(self, objective: ho.Objective, **more: Any) -> Any:
        """Creates the optimizer for a plain function, which has no model outputs for a Gauss-Newton matrix."""
        hessian = {"curvature": "hessian"} if self.name in ON_OUTPUTS else {}
        return self.create(objective.model.parameters(), **hessian, **more)

    @property
    def family(self) -> str:
        return self.cls.family if self.registered else ""

    @property
    def cls(self) -> Any:
        return ho.optimizers.registry.get(self.name)

    @property
    def registered(self) -> bool:
        return ":" not in self.name

    def __str__(self) -> str:
        return self.name


REGISTERED = [Method(name, dict(SETTINGS.get(name, {}))) for name in ho.optimizers.registry._builtins]
ADAPTERS = [  # not scipy:trust-krylov: SciPy's own runs of it differ from one another
    Method("torch:AdamW", {"lr": 1e-2}),
    *(Method(name, dict(SETTINGS[name])) for name in ("torch:LBFGS", "scipy:L-BFGS-B", "scipy:trust-ncg")),
]
METHODS = [*REGISTERED, *ADAPTERS]
FIRST_ORDER = [method for method in REGISTERED if method.family == "first-order"]
# Those of them that are torch's own classes.
TORCHS = [
    method for method in FIRST_ORDER if method.cls.__dict__.get("torch_class") not in (None, torch.optim.Optimizer)
]
FUSED = [method for method in TORCHS if "fused" in method.cls.Config.__dataclass_fields__]
# Those that look at the function before they move, and never move up.
GLOBALIZED = [
    method
    for method in REGISTERED
    if (method.family in ("quasi-newton", "newton") and method.cls.batch != "mini") or method.name == "sls"
]
ESCAPES = ["none", "perturbation", "negative_curvature"]

# Where an optimizer's own steps are torch's, the model is called as often as torch calls it.
ONE_FORWARD = [method for method in METHODS if method.name != "torch:LBFGS"]
WITH_RATE = [method for method in METHODS if not method.name.startswith("scipy:")]


def each(methods: list[Method]) -> Any:
    """Returns the decorator that runs a test for each of some methods."""
    return pytest.mark.parametrize("method", methods, ids=str)


def names(*names: str) -> list[Method]:
    """Returns methods by name."""
    return [method for method in METHODS if method.name in names]


def rosenbrock(x: Tensor) -> Tensor:
    """Minimum 0 at (1, ..., 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def saddle(x: Tensor) -> Tensor:
    """A strict saddle at the origin, value 0; minima -1/2 at (0, +-1)."""
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2


def assert_solves(name: str, hard: str, *, steps: int = 400, **options: Any) -> None:
    """Fails unless an optimizer solves one of `hybridopt.tasks.functions` in so many steps."""
    task = problem(hard)
    objective = task.objective()
    optimizer = ho.create(name, objective.model.parameters(), **options)
    for _ in range(steps):
        if task.solved(float(optimizer.step(objective))):
            return
    pytest.fail(f"{hard}: {objective.value()} after {steps} steps")


def quadratic(n: int = 6, seed: int = 0, lowest: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns a symmetric matrix with eigenvalues from `lowest` to 10 and a vector, float64."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(lowest, 10.0, n, dtype=torch.float64)
    return basis * values @ basis.T, torch.randn(n, generator=generator, dtype=torch.float64)
