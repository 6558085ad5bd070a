"""What carries Newton methods along curved valleys: nonmonotone searches, vanishing damping, products kept."""

from __future__ import annotations

import itertools

import pytest
import torch

import hybridopt as ho
from hybridopt.linalg.operator import Dense
from hybridopt.optimizers.trust_newton_cg import _Repeated
from hybridopt.tasks.functions import problem
from tests.optimizers.catalogue import function, rosenbrock, training


def steps_to(objective: ho.Objective, optimizer: object, level: float, most: int) -> int:
    for step in range(most):
        if float(optimizer.step(objective)) <= level:
            return step
    return most


def test_looking_back_follows_a_curved_valley_in_fewer_steps() -> None:
    counts = {}
    for lookback in (1, 3):
        objective = problem("osborne_1").objective()
        optimizer = ho.create("newton_cg", objective.model.parameters(), lookback=lookback)
        counts[lookback] = steps_to(objective, optimizer, problem("osborne_1").level(5.4648946975e-5), 150)
    assert counts[3] < counts[1]


@pytest.mark.parametrize("lookback", [1, 3])
def test_no_value_is_above_the_last_few(lookback: int) -> None:
    objective = problem("meyer").objective()
    optimizer = ho.create("newton_cg", objective.model.parameters(), lookback=lookback)
    values = [float(optimizer.step(objective)) for _ in range(60)]
    for i in range(1, len(values)):
        assert values[i] <= max(values[max(0, i - lookback) : i]) * (1 + 1e-12)
    rises = sum(after > before for before, after in itertools.pairwise(values))
    assert (rises > 0) == (lookback > 1)


def test_values_on_other_data_are_not_looked_back_at() -> None:
    data = training(dtype=torch.float64)
    optimizer = ho.create("newton_cg", data.model.parameters())
    optimizer.step(data.batch(0))
    optimizer.step(data.batch(0))
    assert len(optimizer.memory["reference"]["state"]["values"]) == 2
    optimizer.step(data.batch(1))
    assert len(optimizer.memory["reference"]["state"]["values"]) == 1
    optimizer.moved(data.objective, "escape")
    assert "reference" not in optimizer.memory


def test_with_a_matrix_that_is_not_the_hessian_the_descent_is_monotone() -> None:
    objective = problem("meyer").objective()
    optimizer = ho.create("newton_cg", objective.model.parameters(), curvature="gauss_newton")
    values = [float(optimizer.step(objective)) for _ in range(60)]
    assert all(after <= before for before, after in itertools.pairwise(values))


def test_fixed_damping_does_not_make_the_convergence_linear() -> None:
    objective = function(lambda x: rosenbrock(x) / 100, [-1.2, 1.0])
    options = {"damping": 1.0, "adapt_damping": False, "forcing": 1e-10}
    optimizer = ho.create("newton_cg", objective.model.parameters(), **options)
    norms = []
    for _ in range(200):
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        if norms[-1] < 1e-12:
            break
    # Constant damping of 1 against a smallest eigenvalue of 0.004 would shrink the gradient by 0.4 % a step.
    assert norms[-1] < 1e-12
    assert len([norm for norm in norms if 1e-12 <= norm < 1e-4]) <= 4


def test_products_that_are_kept_change_nothing_but_the_bill() -> None:
    spent = {}
    paths = {}
    for kept in (0, 2, 50):
        objective = problem("osborne_1").objective()
        optimizer = ho.create("trust_newton_cg", objective.model.parameters(), kept_products=kept)
        paths[kept] = []
        for _ in range(30):
            before = objective.ledger.counts["hvp"]
            optimizer.step(objective)
            assert objective.ledger.counts["hvp"] - before == optimizer.report.inner_iterations
            paths[kept].append(objective.position())
        spent[kept] = objective.ledger.counts["hvp"]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*paths.values(), strict=True))
    assert spent[50] < spent[2] < spent[0]


def test_a_kept_product_is_given_for_its_own_vector_only() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    repeated = _Repeated(Dense(matrix), capacity=2)
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert torch.equal(repeated @ one, matrix[:, 0])
    repeated.restart()
    assert torch.equal(repeated @ one, matrix[:, 0])
    assert repeated.products == 1
    repeated.restart()
    assert torch.equal(repeated @ two, matrix[:, 1])
    assert repeated.products == 2


def test_a_far_minimum_is_within_reach_of_the_largest_radius() -> None:
    function_ = problem("brown_badly_scaled")
    result = ho.minimize(function_, function_.start(), method="trust_newton_cg", gtol=1e-6, max_cost=400)
    assert function_.solved(result.fun)
    assert result.cost["gradient_equivalents"] < 400
