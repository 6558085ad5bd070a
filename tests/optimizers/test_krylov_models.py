"""trust_gltr and cubic_newton: exact models, one graph a step, away from exact saddles, the hard classics solved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.tasks.functions import problem, problems
from tests.linalg.dense_models import cubic_value, trust_region_value
from tests.optimizers.catalogue import Method, each, function, names, quadratic, rosenbrock, saddle, training

BOTH = names("trust_gltr", "cubic_newton")
# Regularized so little that the model's minimiser is Newton's step.
FREE: dict[str, dict[str, Any]] = {"trust_gltr": {"radius": 1e3}, "cubic_newton": {"sigma": 1e-12}}
WEIGHT = {"trust_gltr": "radius", "cubic_newton": "sigma"}


@pytest.mark.parametrize("seed", [0, 1, 2])
@each(BOTH)
def test_one_free_step_solves_a_quadratic(method: Method, seed: int) -> None:
    matrix, vector = quadratic(12, seed)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    optimizer = ho.create(method.name, objective.model.parameters(), forcing=1e-14, **FREE[method.name])
    optimizer.step(objective)
    assert optimizer.report.evaluations == 1  # nothing held it back, so nothing longer is tried
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
@each(BOTH)
def test_a_step_is_the_global_minimiser_of_the_indefinite_model(method: Method, weight: float) -> None:
    matrix, vector = quadratic(10, lowest=-4.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(10).tolist())
    options = {WEIGHT[method.name]: weight, "forcing": 1e-12, "max_trials": 1}
    optimizer = ho.create(method.name, objective.model.parameters(), **options)
    optimizer.step(objective)
    s = objective.position()
    if method.name == "trust_gltr":
        reached, wanted = objective.value(), trust_region_value(matrix, -vector, weight)[0]
        assert optimizer.report.ratio == pytest.approx(1.0, rel=1e-9)
    else:
        reached = objective.value() + weight / 3 * float(s.norm()) ** 3
        wanted = cubic_value(matrix, -vector, weight)[0]
        assert optimizer.report.ratio > 1.0
    assert reached == pytest.approx(wanted, rel=1e-8)
    assert optimizer.report.curvature == pytest.approx(-4.0, rel=1e-6)


@each(BOTH)
def test_the_solver_keeps_to_its_limits(method: Method) -> None:
    matrix, vector = quadratic(40, lowest=-4.0)

    def solved(**options: Any) -> tuple[int, str]:
        objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(40).tolist())
        optimizer = ho.create(method.name, objective.model.parameters(), forcing=1e-12, max_trials=1, **options)
        optimizer.step(objective)
        return optimizer.report.inner_iterations, optimizer.report.status

    assert solved(max_cg=4, progress_tol=0.0) == (4, "max_iter")
    least, status = solved(progress_tol=0.1)
    assert status == "progress"
    assert 10 < least < solved(progress_tol=0.0)[0]


@each(BOTH)
def test_one_gauss_newton_step_solves_linear_least_squares(method: Method) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2).double()
    inputs, targets = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    options = FREE[method.name] | {"curvature": "gauss_newton", "forcing": 1e-14}
    ho.create(method.name, model.parameters(), **options).step(objective)
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.lstsq(design, targets).solution
    torch.testing.assert_close(model.weight.T, wanted[:5], rtol=1e-6, atol=1e-7)
    assert objective.ledger.counts["hvp"] == 0


@each(BOTH)
def test_convergence_is_superlinear(method: Method) -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = method.create(objective.model.parameters())
    norms: list[float] = []
    while not norms or norms[-1] > 1e-9:
        optimizer.step(objective)
        norms.append(optimizer.report.grad_norm)
        assert len(norms) < 80
    last = [norm for norm in norms if norm < 1e-2]
    assert len(last) <= 5, last
    assert norms[-1] < 1e-3 * norms[-2]


def steep(x: Tensor) -> Tensor:
    """A full Newton step from its flat side overshoots far."""
    return (1 + 9 * x**2).sqrt().sum() + 0.1 * x[0] * x[1]


@each(BOTH)
def test_tries_cost_one_forward_each_and_neither_gradient_nor_product(method: Method) -> None:
    objective = function(steep, [3.0, -4.0])
    options = {"trust_gltr": {"radius": 1e4}, "cubic_newton": {"sigma": 1e-6}}[method.name]
    optimizer = ho.create(method.name, objective.model.parameters(), **options)
    before = objective.ledger.counts
    optimizer.step(objective)
    spent = {kind: count - before[kind] for kind, count in objective.ledger.counts.items()}
    assert optimizer.report.evaluations > 3
    assert optimizer.report.accepted
    assert spent["gradient"] == 1
    assert spent["forward"] == optimizer.report.evaluations
    assert spent["hvp"] == optimizer.report.inner_iterations <= 2


@each(BOTH)
def test_a_region_that_is_far_too_small_grows_within_one_step(method: Method) -> None:
    matrix, vector = quadratic(6)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(6).tolist())
    options = {"trust_gltr": {"radius": 1e-4}, "cubic_newton": {"sigma": 1e4}}[method.name]
    optimizer = ho.create(method.name, objective.model.parameters(), forcing=1e-10, **options)
    value = objective.value()
    least = objective.value(torch.linalg.solve(matrix, vector))
    optimizer.step(objective)
    assert objective.ledger.counts["gradient"] == 1
    assert objective.value() - least < 1e-2 * (value - least)


@each(BOTH)
def test_a_longer_trial_that_is_worse_is_not_taken(method: Method) -> None:
    # Quadratic as far as |x| = 1, a wall behind it.
    objective = function(lambda x: -x[0] - x[0] ** 2 / 2 + torch.where(x[0] > 1, 1e3 * (x[0] - 1) ** 2, 0.0), [0.0])
    options = {"trust_gltr": {"radius": 0.8}, "cubic_newton": {"sigma": 2.8}}[method.name]
    optimizer = ho.create(method.name, objective.model.parameters(), **options)
    optimizer.step(objective)
    assert optimizer.report.evaluations == 2
    assert optimizer.report.accepted
    assert 0.7 < float(objective.position()[0]) < 1.0
    assert getattr(optimizer.report, WEIGHT[method.name]) == next(iter(options.values()))


@pytest.mark.parametrize("start", [[1e-3, 1e-3], [0.3, 1e-7], [0.5, 0.0], [0.0, 0.0], [0.0, 1e-12]], ids=str)
@each(BOTH)
def test_it_leaves_a_strict_saddle_from_anywhere(method: Method, start: list[float]) -> None:
    objective = function(saddle, start)
    optimizer = method.create(objective.model.parameters())
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-9)


@pytest.mark.parametrize("narrow", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
@each(BOTH)
def test_scales_of_function_and_saddle_do_not_matter(method: Method, scale: float, narrow: float) -> None:
    objective = function(lambda x: scale * (x[0] ** 2 - x[1] ** 2 + narrow * x[1] ** 4), [0.0, 0.0])
    optimizer = method.create(objective.model.parameters())
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-scale / (4 * narrow), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each(BOTH)
def test_it_trains_from_all_zero_weights_without_an_escape(method: Method, dtype: torch.dtype) -> None:
    # All hidden units are the same there, so that the gradient keeps every descent in a symmetric subspace.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.randn(30, 6, dtype=dtype)
    targets = (inputs @ torch.randn(6, 3, dtype=dtype)).argmax(dim=1)
    objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
    optimizer = method.create(model.parameters())
    for _ in range(40):
        if float(optimizer.step(objective)) < 0.02:
            break
    assert objective.value() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each(BOTH)
def test_at_a_minimum_it_looks_around_and_stays(method: Method, dtype: torch.dtype) -> None:
    objective = function(lambda x: (x**2).sum() + 1, [0.0, 0.0], dtype)
    optimizer = method.create(objective.model.parameters())
    optimizer.step(objective)
    assert (optimizer.report.status, optimizer.report.accepted) == ("zero_gradient", False)
    assert optimizer.report.inner_iterations == objective.ledger.counts["hvp"] > 0
    assert not objective.position().any()


@each(BOTH)
def test_the_random_vector_goes_on_from_the_state_and_follows_the_seed(method: Method) -> None:
    def formula(x: Tensor) -> Tensor:
        return -(x**2).sum() + (x**4).sum()

    positions = []
    for resumed, seed in ((False, 0), (True, 0), (False, 1)):
        objective = function(formula, torch.zeros(5).tolist())
        optimizer = ho.create(method.name, objective.model.parameters(), seed=seed)
        optimizer.step(objective)
        first = objective.position()
        objective.commit(torch.zeros(5, dtype=torch.float64))
        if resumed:
            saved = optimizer.state_dict()
            optimizer = ho.create(method.name, objective.model.parameters())
            optimizer.load_state_dict(saved)
        optimizer.step(objective)
        positions.append(objective.position())
        assert not torch.allclose(first, positions[-1])
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])


@each(BOTH)
def test_the_model_is_right_under_rates(method: Method) -> None:
    matrix, vector = quadratic(6)
    for rates in ((0.25, 0.25), (0.5, 0.1)):
        objective = ho.Objective.from_function(
            lambda x: torch.cat(x) @ matrix @ torch.cat(x) / 2 - vector @ torch.cat(x),
            [torch.zeros(2, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)],
        )
        groups = [{"params": [p], "lr": rate} for p, rate in zip(objective.model.parameters(), rates, strict=True)]
        optimizer = ho.create(method.name, groups, forcing=1e-12, **FREE[method.name])
        optimizer.step(objective)
        solution = torch.linalg.solve(matrix, vector)
        wanted = torch.cat([rates[0] * solution[:2], rates[1] * solution[2:]])
        torch.testing.assert_close(objective.position(), wanted, rtol=1e-8, atol=1e-9)
        assert optimizer.report.ratio == pytest.approx(1.0, rel=1e-8)


@each(BOTH)
def test_the_cubic_term_is_in_the_prediction_under_a_rate(method: Method) -> None:
    matrix, vector = quadratic(6, lowest=-2.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.zeros(6).tolist())
    options = {WEIGHT[method.name]: 2.0, "forcing": 1e-12, "lr": 0.5, "max_trials": 1}
    optimizer = ho.create(method.name, objective.model.parameters(), **options)
    optimizer.step(objective)
    s = objective.position()
    cube = 2.0 / 3 * float(s.norm()) ** 3 if method.name == "cubic_newton" else 0.0
    assert optimizer.report.ratio == pytest.approx(objective.value() / (objective.value() + cube), rel=1e-9)


@each(BOTH)
def test_an_escape_takes_the_weight_back_to_its_start(method: Method) -> None:
    problem_ = training()
    optimizer = method.create(problem_.model.parameters())
    for _ in range(3):
        optimizer.step(problem_.objective)
    key = WEIGHT[method.name]
    assert optimizer.memory[key] != 1.0
    optimizer.moved(problem_.objective, "escape")
    assert optimizer.memory[key] == 1.0


@pytest.mark.parametrize(
    ("name", "factor", "budget"),
    [
        ("rosenbrock", 1, 300),
        ("rosenbrock", 10, 600),
        ("brown_badly_scaled", 1, 150),
        ("brown_badly_scaled", 10, 150),
        ("powell_badly_scaled", 1, 1200),
        ("powell_singular", 1, 400),
        ("wood", 1, 600),
        ("brown_dennis", 10, 200),
        ("freudenstein_roth", 1, 150),
    ],
)
@each(BOTH)
def test_badly_scaled_classics_are_solved(method: Method, name: str, factor: int, budget: int) -> None:
    function_ = problem(name)
    result = ho.minimize(
        lambda x: function_(x), function_.start(factor), method=method.name, max_cost=budget, gtol=1e-300, certify=False
    )
    assert function_.solved(result.fun)
    assert result.cost["gradient_equivalents"] <= budget * 1.2 or result.status == "stalled"


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "least"), [(1, 37), (10, 34)])
@each(BOTH)
def test_the_collection_of_test_functions_is_solved(method: Method, factor: int, least: int) -> None:
    solved = 0
    known = [entry for entry in problems() if entry.minima]
    for entry in known:
        objective = ho.Objective.from_function(entry, entry.start(factor))
        optimizer = method.create(objective.model.parameters())
        for _ in range(600):
            if entry.solved(float(optimizer.step(objective))):
                solved += 1
                break
            if objective.ledger.gradient_equivalents(1) > 2000:
                break
    assert len(known) == 37
    assert solved >= least
