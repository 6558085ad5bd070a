"""NaN and infinity: no exception; methods that look at the value keep the parameters finite and say so."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import GLOBALIZED, REGISTERED, Method, each, function, names, run, training

SCIPY = names("scipy:L-BFGS-B", "scipy:trust-ncg")


@each(SCIPY)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_parameters_stay_and_the_next_batch_goes_on(method: Method, bad: float) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(2), full=True)
    before = problem.objective.position()
    loss_fn = problem.objective.loss_fn
    optimizer.step(ho.Objective(problem.model, lambda o, t: loss_fn(o, t) * bad, problem.inputs, problem.targets))
    assert torch.equal(problem.objective.position(), before)
    value = problem.objective.value()
    run(optimizer, problem, range(2), full=True)
    assert problem.objective.value() < value


@each([*GLOBALIZED, *SCIPY])
def test_a_gradient_that_is_not_finite_at_a_finite_value(method: Method) -> None:
    # sqrt(0) is 0, its derivative is not.
    objective = function(lambda x: (x**2).sum().sqrt() + x[0] ** 2, [0.0, 0.0])
    optimizer = method.minimize(objective)
    for _ in range(2):
        assert float(optimizer.step(objective)) == 0.0
    assert torch.equal(objective.position(), torch.zeros(2, dtype=torch.float64))


def wall(kind: float, radius: float) -> Callable[[Tensor], Tensor]:
    """A bowl, flat further out so that full Newton steps overshoot it, that is not defined beyond a radius."""

    def formula(x: Tensor) -> Tensor:
        return (1 + 9 * x**2).sqrt().sum() + torch.where((x.abs() > radius).any(), kind, 0.0)

    return formula


@each([method for method in REGISTERED if method.family not in ("first-order", "structured")])
@pytest.mark.parametrize("kind", [math.nan, math.inf, -math.inf])
def test_a_wall_beside_the_path_is_walked_around(method: Method, kind: float) -> None:
    objective = function(wall(kind, 1.2), [-1.0, 0.9])
    optimizer = method.minimize(objective)
    for _ in range(12):
        optimizer.step(objective)
        assert torch.isfinite(objective.position()).all()
    assert objective.value() < 3.0  # it is 2 at the minimum and 6 at the start


@each(GLOBALIZED)
def test_a_step_into_nan_is_refused(method: Method) -> None:
    # NaN everywhere but at the start.
    start = torch.tensor([1.0, 1.0], dtype=torch.float64)

    def formula(x: Tensor) -> Tensor:
        return (x**2).sum() + torch.where((x == start).all(), 0.0, math.nan) * x.sum().detach()

    objective = function(formula, start)
    optimizer = method.minimize(objective)
    for _ in range(3):
        optimizer.step(objective)
        assert optimizer.report.accepted is False
        assert torch.equal(objective.position(), start)
        assert optimizer.report.step_norm == 0.0


@each(GLOBALIZED)
@pytest.mark.parametrize("formula", [lambda x: (0 * x).sum() + 3, lambda x: (x - x.detach()).sum()], ids=["0", "1"])
def test_a_flat_function_moves_nothing_far_and_raises_nothing(
    method: Method, formula: Callable[[Tensor], Tensor]
) -> None:
    objective = function(formula, [1.0, -2.0])
    optimizer = method.minimize(objective)
    for _ in range(4):
        optimizer.step(objective)
    assert torch.isfinite(objective.position()).all()
    assert objective.value() in (0.0, 3.0)


@each(GLOBALIZED)
@pytest.mark.parametrize(
    "formula",
    [lambda x: -(x**2).sum(), lambda x: -x.sum(), lambda x: -x.exp().sum(), lambda x: x.sum() ** 3],
    ids=["-x^2", "-x", "-exp", "x^3"],
)
def test_a_function_that_is_unbounded_below_raises_nothing(method: Method, formula: Callable[[Tensor], Tensor]) -> None:
    objective = function(formula, [1.0, -2.0])
    optimizer = method.minimize(objective)
    start = objective.value()
    for _ in range(30):
        loss = float(optimizer.step(objective))
        if not math.isfinite(loss):
            break
    assert not torch.isnan(objective.position()).any()
    assert not objective.value() > start
