"""Every registered optimizer, the adapters, and tiny problems that they are tried on.

An invariant that all optimizers share is one parametrized test over `METHODS`; an optimizer that is registered later
is in it without another line, and the checks below see to it that none is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho

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


# A switch that is due in the third step, so that short runs meet both of its members.
_OPTIONS: dict[str, dict[str, Any]] = {
    "switch": {"at_step": 2, "first_options": {"lr": 1e-2}},
    "adam_lbfgs": {"at_step": 2},
    "adam_lbfgs_nncg": {"at_step": 2, "lbfgs_steps": 2, "rank": 5, "max_cg": 10},
    # Trials of four steps or so: nothing is undone in the first three.
    "auto": {"portfolio": [{"name": "momentum", "options": {"lr": 0.02}}, "lbfgs"], "trial_cost": 3.5, "run_cost": 3.0},
    "saddle_free_newton": {"subspace": 10},
    "curvilinear_newton": {"subspace": 10},
    "hessian_free": {"max_cg": 20},
    "nystrom_newton_cg": {"rank": 5, "refresh": 3},
    # Refreshes that a resume falls between.
    "shampoo": {"frequency": 3},
    "soap": {"frequency": 3},
    "adahessian": {"every": 2},
    "sophia": {"every": 3},
    # First estimates from which a few steps get somewhere.
    "prodigy": {"d0": 1e-3},
    "dog": {"first_distance": 1e-2, "averaging": 8.0},
    "schedule_free": {"lr": 1e-2},
    "lookahead": {"period": 2, "inner_options": {"lr": 0.1}},
    # A rate that has settled at once: the switch comes after the second step.
    "swats": {"lr": 0.2, "threshold": 100.0},
}
REGISTERED = [Method(name, _OPTIONS.get(name, {})) for name in ho.optimizers.registry._builtins]
ADAPTERS = [
    Method("torch:AdamW", {"lr": 1e-2}),
    Method("torch:LBFGS", {"max_iter": 3, "line_search_fn": "strong_wolfe", "history_size": 4}),
    Method("scipy:L-BFGS-B", {"maxiter": 4}),
    Method("scipy:trust-ncg", {"maxiter": 4}),  # not trust-krylov: SciPy's own runs of it differ from one another
]
METHODS = [*REGISTERED, *ADAPTERS]
FIRST_ORDER = [method for method in REGISTERED if method.family == "first-order"]
# Those of them that are torch's own classes.
TORCHS = [
    method for method in FIRST_ORDER if method.cls.__dict__.get("torch_class") not in (None, torch.optim.Optimizer)
]
FUSED = [method for method in TORCHS if "fused" in method.cls.Config.__dataclass_fields__]
GLOBALIZED = [method for method in REGISTERED if method.family in ("quasi-newton", "newton") or method.name == "sls"]
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


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))


def with_both() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "dropout": with_dropout,
    "batch_norm": with_batch_norm,
    "both": with_both,
}


@dataclass
class Training:
    """A model, a data set of a few dozen samples, and the objective on it."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    objective: ho.Objective

    def batch(self, step: int, size: int = 8) -> ho.Objective:
        """Returns the objective of the mini-batch of a step; the same in every process."""
        start = step * size % len(self.inputs)
        rows = slice(start, start + size)
        return self.objective.with_batch(self.inputs[rows], self.targets[rows], key=f"batch-{start}")

    def parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def training(
    model: Callable[[], nn.Module] | str = plain, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Training:
    """Builds a classification of 24 random points into three classes, always the same for a seed."""
    torch.manual_seed(seed)
    module = (MODELS[model] if isinstance(model, str) else model)().to(dtype)
    inputs, targets = torch.randn(24, 4, dtype=dtype), torch.randint(0, 3, (24,))
    objective = ho.Objective(module, nn.functional.cross_entropy, inputs, targets, key="all")
    torch.manual_seed(seed + 1)
    return Training(module, inputs, targets, objective)


def function(formula: Callable[[Any], Tensor], start: Any, dtype: torch.dtype = torch.float64) -> ho.Objective:
    """Returns the objective of a formula from a list of numbers."""
    return ho.Objective.from_function(formula, torch.as_tensor(start, dtype=dtype))


def rosenbrock(x: Tensor) -> Tensor:
    """Minimum 0 at (1, ..., 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def saddle(x: Tensor) -> Tensor:
    """A strict saddle at the origin, value 0; minima -1/2 at (0, +-1)."""
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2


def quadratic(n: int = 6, seed: int = 0, lowest: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns a symmetric matrix with eigenvalues from `lowest` to 10 and a vector, float64."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(lowest, 10.0, n, dtype=torch.float64)
    return basis * values @ basis.T, torch.randn(n, generator=generator, dtype=torch.float64)


def run(optimizer: Any, problem: Training, steps: range, *, full: bool = False) -> list[float]:
    """Does some steps and returns their losses."""
    return [float(optimizer.step(problem.objective if full else problem.batch(step))) for step in steps]


def flat_state(value: Any, path: str = "") -> dict[str, Any]:
    """Returns nested state as one dict from paths to tensors and plain values."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in flat_state(item, f"{path}/{name}").items()}


def assert_same_state(actual: Any, expected: Any) -> None:
    """Asserts that two nested states are equal to the last bit, dtypes and types included."""
    left, right = flat_state(actual), flat_state(expected)
    assert left.keys() == right.keys(), f"only in one: {sorted(left.keys() ^ right.keys())}"
    for path, wanted in right.items():
        got = left[path]
        assert type(got) is type(wanted), f"{path}: {type(got).__name__} instead of {type(wanted).__name__}"
        if isinstance(wanted, Tensor):
            assert got.dtype == wanted.dtype, f"{path}: {got.dtype} instead of {wanted.dtype}"
            assert got.shape == wanted.shape, f"{path}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            assert got.numpy().tobytes() == wanted.numpy().tobytes(), f"{path} differs"
        elif wanted == wanted:
            assert got == wanted, f"{path}: {got!r} instead of {wanted!r}"
