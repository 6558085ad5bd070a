"""Newton-type methods: one step solves a quadratic, convergence is superlinear, products are paid and few."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import Method, each, function, names, quadratic, rosenbrock, training

EXACT: dict[str, dict[str, Any]] = {
    "newton_cg": {"damping": 0.0, "forcing": 1e-14, "max_cg": 100},
    "trust_newton_cg": {"radius": 1e3, "forcing": 1e-14, "max_cg": 100},
    "hessian_free": {"damping": 1e-12, "progress_tol": 1e-16, "max_cg": 100, "curvature": "hessian"},
    "saddle_free_newton": {"damping": 1e-12, "subspace": 30},
}
NEWTON = names(*EXACT)
RATIO_RULE = names("newton_cg", "trust_newton_cg", "hessian_free", "saddle_free_newton")


def exact(name: str, objective: ho.Objective, **more: Any) -> Any:
    return ho.create(name, objective.model.parameters(), **{**EXACT[name], **more})


@pytest.mark.parametrize("seed", [0, 1, 2])
@each(NEWTON)
def test_one_step_solves_a_quadratic(method: Method, seed: int) -> None:
    matrix, vector = quadratic(12, seed)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    exact(method.name, objective).step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector), rtol=1e-7, atol=1e-8)
    assert float(objective.value_and_grad()[1].norm()) < 1e-6


@each(names("newton_cg", "trust_newton_cg", "hessian_free"))
def test_one_gauss_newton_step_solves_linear_least_squares(method: Method) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 2).double()
    inputs, targets = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    objective = ho.Objective(model, torch.nn.functional.mse_loss, inputs, targets)
    optimizer = ho.create(method.name, model.parameters(), **EXACT[method.name] | {"curvature": "gauss_newton"})
    optimizer.step(objective)
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.lstsq(design, targets).solution
    torch.testing.assert_close(model.weight.T, wanted[:5], rtol=1e-6, atol=1e-7)
    assert objective.ledger.counts["hvp"] == 0
    assert objective.ledger.counts["ggnvp"] > 0


@each(names("newton_cg", "trust_newton_cg", "saddle_free_newton"))
def test_convergence_is_superlinear(method: Method) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    options = {"saddle_free_newton": {"damping": 1e-10}, "newton_cg": {"damping": 0.0}}.get(method.name, {})
    optimizer = ho.create(method.name, objective.model.parameters(), **options)
    norms: list[float] = []
    while not norms or norms[-1] > 1e-9:
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        assert len(norms) < 150
    # From the first gradient below 1e-2 to one below 1e-9: quadratic convergence needs three, CG's forcing some more.
    last = [norm for norm in norms if norm < 1e-2]
    assert len(last) <= 6, last
    assert norms[-1] < 1e-3 * norms[-2]


@each(names("newton_cg", "trust_newton_cg"))
def test_a_tiny_first_gradient_does_not_spoil_the_forcing(method: Method) -> None:
    # The run starts beside a saddle, where the gradient is far smaller than on the way down.
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2 + x[0] * x[1] ** 2, [1e-9, 1e-8])
    optimizer = ho.create(method.name, objective.model.parameters())
    norms = []
    for _ in range(60):
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        if norms[-1] == 0.0:
            break
    below = [index for index, norm in enumerate(norms) if norm < 1e-3 and index > 3 and max(norms[:index]) > 0.1]
    end = [index for index, norm in enumerate(norms) if norm < 1e-10 and index > 3 and max(norms[:index]) > 0.1]
    assert end, norms
    assert end[0] - below[0] <= 4, norms[below[0] :]


@each(RATIO_RULE)
def test_the_ratio_of_an_exact_model_is_one_and_the_next_step_is_freer(method: Method) -> None:
    matrix, vector = quadratic(6)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(6).tolist())
    more = {"radius": 0.1} if method.name == "trust_newton_cg" else {"damping": 0.5}
    if method.name == "trust_newton_cg":
        optimizer = exact(method.name, objective, **more)
        optimizer.step(objective)
        assert optimizer.report.ratio == pytest.approx(1.0, rel=1e-9)
        assert optimizer.report.step_norm == pytest.approx(0.1)
        assert optimizer.report.radius == pytest.approx(0.2)
        return
    optimizer = exact(method.name, objective, **more)
    optimizer.step(objective)
    # The damped model underestimates the decrease of a quadratic.
    assert optimizer.report.ratio >= 1.0 - 1e-9
    assert optimizer.report.damping == pytest.approx(0.5 * 2 / 3)


def overshoot(x: torch.Tensor) -> torch.Tensor:
    """Its curvature falls away from the minimum at 0, so that Newton steps from outside overshoot by far."""
    return (1 + 9 * x**2).sqrt().sum()


@each(names("newton_cg", "hessian_free", "saddle_free_newton"))
def test_the_damping_follows_the_reported_ratio(method: Method) -> None:
    objective = function(overshoot, [1.0, -1.5])
    more = {"progress_tol": 1e-6} if method.name == "hessian_free" else {}
    optimizer = exact(method.name, objective, damping=1e-2, **more)
    damping, seen = 1e-2, set()
    for _ in range(60):
        optimizer.step(objective)
        ratio = optimizer.report.ratio
        if ratio is None:  # the gradient vanished
            break
        factor = 1.5 if not ratio >= 0.25 else 2 / 3 if ratio > 0.75 else 1.0
        damping = max(damping * factor, 1e-12)
        seen.add(factor)
        assert optimizer.report.damping == pytest.approx(damping)
        assert optimizer.memory["damping"] == optimizer.report.damping
    assert len(seen) > 1


def test_the_ratio_of_newton_cg_is_that_of_the_step_taken() -> None:
    objective = function(overshoot, [1.0, -1.5])
    optimizer = exact("newton_cg", objective, damping=1e-2)
    x, value = objective.position(), objective.value()
    gradient = objective.value_and_grad()[1]
    hessian = ho.curvature.Hessian(objective).dense() + 1e-2 * torch.eye(2, dtype=torch.float64)
    optimizer.step(objective)
    step = objective.position() - x
    predicted = -float(gradient @ step + step @ hessian @ step / 2)
    assert optimizer.report.step_size < 1
    assert optimizer.report.ratio == pytest.approx((value - objective.value()) / predicted, rel=1e-9)


def test_the_ratio_of_hessian_free_is_that_of_the_whole_step() -> None:
    objective = function(overshoot, [1.0, -1.5])
    optimizer = exact("hessian_free", objective, damping=1e-2)
    optimizer.step(objective)
    assert optimizer.report.step_size < 1
    assert optimizer.report.ratio < 0  # the whole step ends higher than it began
    assert objective.value() < optimizer.report.loss


def test_without_adaptation_the_damping_stays() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("newton_cg", objective.model.parameters(), damping=0.1, adapt_damping=False)
    for _ in range(5):
        optimizer.step(objective)
        assert optimizer.report.damping == 0.1


def test_a_rejected_radius_costs_a_forward_pass_and_no_gradient() -> None:
    objective = function(overshoot, [1.0, -1.5])
    optimizer = exact("trust_newton_cg", objective)
    before = objective.ledger.counts
    optimizer.step(objective)
    after = objective.ledger.counts
    assert optimizer.report.accepted
    assert optimizer.report.evaluations > 1
    assert after["gradient"] - before["gradient"] == 1
    assert after["forward"] - before["forward"] == optimizer.report.evaluations
    assert after["hvp"] - before["hvp"] == optimizer.report.inner_iterations


def test_a_step_of_which_all_radii_fail_moves_nothing_and_the_next_goes_on_from_there() -> None:
    objective = function(overshoot, [1.0, -1.5])
    optimizer = exact("trust_newton_cg", objective, max_trials=1)
    before = objective.position()
    optimizer.step(objective)
    assert optimizer.report.accepted is False
    assert optimizer.report.step_norm == 0.0
    assert torch.equal(objective.position(), before)
    first = optimizer.report.radius
    assert first < 1e3
    while not optimizer.report.accepted:
        optimizer.step(objective)
        assert optimizer.report.radius <= first
    assert objective.value() < float(optimizer.report.loss)


@each(names("newton_cg", "trust_newton_cg"))
def test_negative_curvature_is_reported_and_used(method: Method) -> None:
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, [0.0, 0.1])
    optimizer = ho.create(method.name, objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.report.curvature == pytest.approx(-2 + 6 * 0.01, abs=2e-3)
    assert optimizer.report.accepted
    for _ in range(30):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-9)


@each(NEWTON)
def test_one_step_pays_one_gradient_and_what_it_reports(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(method.name, problem.model.parameters())
    for _ in range(3):
        before = problem.objective.ledger.counts
        optimizer.step(problem.objective)
        spent = {kind: count - before[kind] for kind, count in problem.objective.ledger.counts.items()}
        report = optimizer.report
        assert spent["gradient"] == 1
        assert spent["forward"] == report.evaluations
        # One more where the last product shows negative curvature, or the inner solve starts from a vector.
        assert spent["hvp"] + spent["ggnvp"] - report.inner_iterations in (0, 1)


def test_hessian_free_starts_from_the_last_solution() -> None:
    problem = training(dtype=torch.float64)
    options = {"progress_tol": 1e-3, "damping": 1e-2}
    warm = ho.create("hessian_free", problem.model.parameters(), **options)
    warm.step(problem.objective)
    solution = warm.memory["solution"].clone()
    twin = training(dtype=torch.float64)
    twin.model.load_state_dict(problem.model.state_dict())
    cold = ho.create("hessian_free", twin.model.parameters(), **options, warm_start=0.0)
    cold.load_state_dict(warm.state_dict())
    warm.step(problem.objective)
    cold.step(twin.objective)
    assert not torch.equal(warm.memory["solution"], solution)
    assert not torch.equal(warm.memory["solution"], cold.memory["solution"])


def test_hessian_free_goes_back_to_an_iterate_that_is_better_than_the_last() -> None:
    # The model is right along the steep directions, which CG solves first, and overshoots along the flat ones.
    steep = torch.logspace(0, 3, 20, dtype=torch.float64)
    start = [*torch.ones(20).tolist(), 2.0, -3.0]
    objective = function(lambda x: (steep * x[:20] ** 2).sum() / 2 + overshoot(x[20:]), start)
    optimizer = exact("hessian_free", objective, damping=1e-9, max_cg=22)
    value = objective.value()
    optimizer.step(objective)
    assert optimizer.report.backtracked >= 1
    assert objective.value() < value


@each(NEWTON)
def test_a_zero_gradient_is_a_status_and_not_a_division(method: Method) -> None:
    objective = function(lambda x: (x**2).sum(), [0.0, 0.0])
    optimizer = method.minimize(objective)
    optimizer.step(objective)
    assert optimizer.report.status == "zero_gradient"
    assert optimizer.report.accepted is False
    assert math.isfinite(optimizer.report.loss)
