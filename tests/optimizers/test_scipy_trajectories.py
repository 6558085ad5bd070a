"""The trust-region methods under SciPy's constants: the same steps, radii, ratios and decisions, one by one.

SciPy's outer loop asks for the inner residual ``min(0.5, sqrt(||g||)) ||g||``, which is in the units of the function;
ours divides by the first gradient's length, so both get the function in units in which that is 1. One rule differs on
purpose and is taken back here: after a bad step inside the region SciPy cuts the radius, ours the step's length, or
the same step would be tried again. A test of its own shows that.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.tasks.functions import problem
from tests.optimizers.catalogue import function, rosenbrock, saddle

outer = pytest.importorskip("scipy.optimize._trustregion")
exact = pytest.importorskip("scipy.optimize._trustregion_exact")
truncated = pytest.importorskip("scipy.optimize._trustregion_ncg")
CONSTANTS: dict[str, Any] = {"radius": 1.0, "max_radius": 1e3, "eta": 0.15, "shrink": 0.25, "max_trials": 1}
EPS = float(np.finfo(float).eps)
FUNCTIONS: dict[str, tuple[Any, list[float]]] = {
    "rosenbrock_2": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock_10": (rosenbrock, [-1.2, 1.0] * 5),
    **{name: (problem(name), list(problem(name).x0)) for name in ("powell_singular", "wood", "beale")},
    "saddle": (saddle, [0.5, 1e-3]),
}


class Exact(exact.IterativeSubproblem):
    """SciPy's solver without its tolerances, which accept a step that is off the boundary by a tenth."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, k_easy=1e-13, k_hard=1e-20, maxiter=200)


OURS: dict[str, tuple[type, dict[str, Any]]] = {
    "trust_newton_cg": (truncated.CGSteihaugSubproblem, {"forcing": 0.5}),
    "trust_gltr": (Exact, {"forcing": 1e-10, "progress_tol": 0.0}),
}
"""SciPy's subproblem, and what makes ours as accurate."""


def gradient(formula: Any, x: Tensor) -> Tensor:
    """The gradient of a plain function."""
    at = x.detach().clone().requires_grad_()
    return torch.autograd.grad(formula(at), at)[0]


def scaled(name: str, factor: int) -> tuple[Any, Tensor]:
    """A function in units in which its gradient at the start is of length 1, and the start."""
    formula, standard = FUNCTIONS[name]
    start = factor * torch.tensor(standard, dtype=torch.float64)
    unit = float(gradient(formula, start).norm())
    return lambda x: formula(x) / unit, start


class Theirs:
    """What SciPy does: points visited, and each step's radius, length, ratio and how far rounding blurs that."""

    def __init__(self, formula: Any, start: Tensor, subproblem: type, radius: float = 1.0, most: int = 100) -> None:
        self.radii: list[float] = []
        self.lengths: list[float] = []
        self.ratios: list[float] = []
        self.blur: list[float] = []
        owner = self

        class Recorded(subproblem):  # type: ignore[misc]
            def solve(self, radius: float) -> tuple[np.ndarray, bool]:
                p, hits = super().solve(radius)
                actual, predicted = self.fun - self._fun(self._x + p), self.fun - self(p)
                owner.radii.append(radius)
                owner.lengths.append(float(np.linalg.norm(p)))
                owner.ratios.append(actual / predicted)
                owner.blur.append(100 * EPS * abs(self.fun) / predicted * max(1.0, abs(actual / predicted)))
                return p, hits

        self.points = outer._minimize_trust_region(
            lambda x: formula(torch.tensor(x)).item(),
            start.numpy(),
            jac=lambda x: gradient(formula, torch.tensor(x)).numpy(),
            hess=lambda x: torch.autograd.functional.hessian(formula, torch.tensor(x)).numpy(),
            subproblem=Recorded,
            initial_trust_radius=radius,
            gtol=1e-7,
            maxiter=most,
            return_all=True,
        ).allvecs


@pytest.mark.parametrize("factor", [1, 10])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", OURS)
def test_the_same_trajectory_as_scipys(method: str, name: str, factor: int) -> None:
    subproblem, accuracy = OURS[method]
    formula, start = scaled(name, factor)
    theirs = Theirs(formula, start, subproblem)
    objective = function(formula, start.tolist())
    optimizer = ho.create(method, objective.model.parameters(), **CONSTANTS, **accuracy)
    radius = 1.0
    for k, (before, after) in enumerate(itertools.pairwise(theirs.points)):
        optimizer.step(objective)
        report = optimizer.report
        off = np.linalg.norm(objective.position().numpy() - after)
        assert off <= 1e-8 * max(1.0, float(np.linalg.norm(after))), k
        assert radius == pytest.approx(theirs.radii[k], rel=1e-12), k
        assert report.accepted is bool((before != after).any()), k
        assert report.ratio == pytest.approx(theirs.ratios[k], rel=1e-6, abs=theirs.blur[k]), k
        if report.ratio < 0.25:
            assert report.radius == pytest.approx(0.25 * min(radius, theirs.lengths[k])), k
            optimizer.memory["radius"] = 0.25 * radius
        radius = optimizer.memory["radius"]
    assert k >= 3
    assert float(gradient(formula, objective.position()).norm()) < 1e-7


@pytest.mark.parametrize("method", OURS)
def test_a_rejected_step_inside_the_region_is_not_tried_again(method: str) -> None:
    # Newton's step from here is 42 long and overshoots; a quarter of 500 does not shorten it.
    def formula(x: Tensor) -> Tensor:
        return (1 + x**2).sqrt().sum()

    subproblem, accuracy = OURS[method]
    start = torch.tensor([3.0, 3.0], dtype=torch.float64)
    theirs = Theirs(formula, start, subproblem, radius=500.0, most=3)
    assert theirs.radii == [500.0, 125.0, 31.25]
    assert theirs.ratios[0] == theirs.ratios[1] < theirs.ratios[2]
    objective = function(formula, start.tolist())
    options = {**CONSTANTS, **accuracy, "radius": 500.0, "forcing": 1e-10}
    optimizer = ho.create(method, objective.model.parameters(), **options)
    optimizer.step(objective)
    assert optimizer.report.ratio == pytest.approx(theirs.ratios[0])
    assert optimizer.report.radius == pytest.approx(0.25 * 30 * 2**0.5)
