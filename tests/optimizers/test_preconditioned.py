"""Newton-CG and Hessian-free with preconditioners, other matrices, and structural damping."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from hybridopt.curvature.preconditioners import registry
from hybridopt.curvature.structural import StructurallyDamped
from tests.optimizers.catalogue import assert_same_state, function, quadratic, rosenbrock, run, training

FLOAT = torch.float64
METHODS = ["newton_cg", "hessian_free"]
NAMES = list(registry._builtins)
BOTH = pytest.mark.parametrize("method", METHODS)
EACH = pytest.mark.parametrize("name", NAMES)


def options(name: str) -> dict[str, Any]:
    refresh = {"preconditioner_refresh": 2} if registry.get(name).lasting else {}
    return {
        "damping": 0.05,
        "curvature": "gauss_newton",
        "max_cg": 12,
        "preconditioner": name,
        "preconditioner_size": 6,
        **refresh,
    }


@BOTH
@EACH
def test_it_descends_and_resumes_to_the_bit(method: str, name: str):
    problem, twin = training(), training()
    optimizer = ho.create(method, problem.model.parameters(), **options(name))
    losses = run(optimizer, problem, range(3), full=True)
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    twin.model.load_state_dict(problem.model.state_dict())
    stored.seek(0)
    again = ho.create(method, twin.model.parameters(), **options(name))
    again.load_state_dict(torch.load(stored, weights_only=True))
    rest = run(optimizer, problem, range(3, 6), full=True)
    assert run(again, twin, range(3, 6), full=True) == rest
    assert_same_state(again.state_dict()["state"], optimizer.state_dict()["state"])
    assert rest[-1] < 0.7 * losses[0]
    copy.deepcopy(optimizer)


@BOTH
@pytest.mark.parametrize("name", ["diagonal", "lbfgs"])
def test_quadratics_are_solved(method: str, name: str):
    matrix, vector = quadratic(12)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    more = {"forcing": 1e-12} if method == "newton_cg" else {"progress_tol": 1e-16}
    optimizer = ho.create(
        method,
        objective.model.parameters(),
        curvature="hessian",
        damping=1e-10,
        max_cg=100,
        preconditioner=name,
        **more,
    )
    for _ in range(2):
        optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector), rtol=1e-6, atol=1e-7)


def test_lbfgs_saves_iterations_from_the_second_step_on():
    spread = torch.logspace(0, 4, 40, dtype=FLOAT)

    def iterations(name: str) -> int:
        objective = function(lambda x: (spread * x**2).sum() / 2 + 1e-3 * (x**4).sum(), torch.ones(40).tolist())
        optimizer = ho.create(
            "newton_cg", objective.model.parameters(), damping=0.0, forcing=1e-8, max_cg=500, preconditioner=name,
            preconditioner_size=50,
        )  # fmt: skip
        optimizer.step(objective)
        objective.commit(objective.position() + torch.linspace(-1, 1, 40, dtype=FLOAT))
        optimizer.step(objective)
        return optimizer.report.inner_iterations

    assert iterations("lbfgs") < 0.3 * iterations("none")


@BOTH
@EACH
def test_parameters_that_freeze_on_the_way(method: str, name: str):
    problem = training()
    optimizer = ho.create(method, problem.model.parameters(), **options(name))
    optimizer.step(problem.objective)
    first = next(problem.model.parameters()).requires_grad_(False)
    before = first.detach().clone()
    loss = optimizer.step(problem.objective)
    first.requires_grad_(True)
    assert optimizer.step(problem.objective) < loss
    assert not torch.equal(first, before)


@BOTH
@pytest.mark.parametrize("layer", ["batch_norm", "both"])
@EACH
def test_coupled_data(method: str, name: str, layer: str):
    problem = training(layer)
    optimizer = ho.create(method, problem.model.parameters(), **options(name))
    losses = run(optimizer, problem, range(4), full=True)
    assert losses[-1] < losses[0]


@BOTH
@pytest.mark.parametrize("curvature", ["fisher", "empirical_fisher"])
def test_fisher_matrices(method: str, curvature: str):
    problem = training(dtype=FLOAT)
    optimizer = ho.create(method, problem.model.parameters(), curvature=curvature, max_cg=30, damping=1e-2)
    losses = run(optimizer, problem, range(8), full=True)
    assert losses[-1] < 0.7 * losses[0]
    assert problem.objective.ledger.counts["hvp"] == 0


@BOTH
def test_the_fisher_matrix_makes_the_steps_of_the_gauss_newton_matrix(method: str):
    ends = []
    for curvature in ("fisher", "gauss_newton"):
        problem = training(dtype=FLOAT)
        run(ho.create(method, problem.model.parameters(), curvature=curvature), problem, range(3), full=True)
        ends.append(torch.cat([p.flatten() for p in problem.parameters()]))
    assert torch.equal(*ends)


@BOTH
@pytest.mark.parametrize("name", ["diagonal", "lbfgs", "nystrom"])
def test_curvature_that_is_not_finite_is_a_status(method: str, name: str):
    # Value and gradient are finite, the second derivative at zero is not.
    objective = function(lambda x: x.abs().pow(1.5).sum() + x.sum(), [0.0, 1.0])
    more = {"curvature": "hessian", "preconditioner": name, "preconditioner_size": 1}
    optimizer = ho.create(method, objective.model.parameters(), **more)
    optimizer.step(objective)
    assert torch.isfinite(objective.position()).all()


def test_a_function_has_no_fisher_matrix():
    objective = function(rosenbrock, [-1.2, 1.0])
    for name in ("fisher", "empirical_fisher"):
        with pytest.raises(CombinationError, match="needs a model whose outputs"):
            ho.create("newton_cg", objective.model.parameters(), curvature=name).step(objective)


def test_a_move_drops_what_belongs_to_the_point():
    problem = training()
    optimizer = ho.create("newton_cg", problem.model.parameters(), **options("lbfgs"))
    optimizer.step(problem.objective)
    assert "state" in optimizer.memory["preconditioner"]
    optimizer.moved(problem.objective, "escape")
    assert "state" not in optimizer.memory["preconditioner"]
    optimizer.step(problem.objective)


# -- structural damping ------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNN(2, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0][:, -1])


def sequences(dtype: torch.dtype = FLOAT) -> ho.Objective:
    torch.manual_seed(0)
    inputs = torch.randn(10, 6, 2, dtype=dtype)
    return ho.Objective(Recurrent().to(dtype), nn.functional.mse_loss, inputs, inputs[:, :2, 0].sum(1, keepdim=True))


def test_structural_damping_is_in_the_system_that_is_solved():
    objective = sequences()
    point = objective.at(hidden=True)
    matrix = StructurallyDamped(point, 0.5 * 0.1).dense() + 0.1 * torch.eye(objective.space.n, dtype=FLOAT)
    wanted = torch.linalg.solve(matrix, -point.gradient)
    optimizer = ho.create(
        "hessian_free", objective.model.parameters(), damping=0.1, structural_damping=0.5, progress_tol=1e-16
    )
    optimizer.step(objective)
    torch.testing.assert_close(optimizer.memory["solution"], wanted, rtol=1e-6, atol=1e-8)


def test_structural_damping_makes_hidden_states_move_less():
    def change(mu: float) -> float:
        objective = sequences()
        model, inputs = objective.model, objective.inputs
        before = model.cell(inputs)[0].detach()
        ho.create("hessian_free", model.parameters(), damping=1e-3, structural_damping=mu).step(objective)
        return float((model.cell(inputs)[0].detach() - before).norm())

    assert change(1000.0) < 0.5 * change(0.0)


def test_structural_damping_costs_no_further_products():
    objective = sequences(torch.float32)
    optimizer = ho.create("hessian_free", objective.model.parameters(), structural_damping=0.1)
    for _ in range(3):
        before = objective.ledger.counts
        optimizer.step(objective)
        after = objective.ledger.counts
        assert after["gradient"] - before["gradient"] == 1
        assert after["ggnvp"] - before["ggnvp"] - optimizer.report.inner_iterations in (0, 1)


def test_structural_damping_is_refused_where_it_makes_no_sense():
    with pytest.raises(CombinationError, match="curvature='gauss_newton'"):
        ho.create("hessian_free", nn.Linear(1, 1).parameters(), structural_damping=0.1, curvature="hessian")
    with pytest.raises(ConfigError):
        ho.create("hessian_free", nn.Linear(1, 1).parameters(), structural_damping=-0.1)
    problem = training()
    with pytest.raises(CombinationError, match="Use structural_damping=0"):
        ho.create("hessian_free", problem.model.parameters(), structural_damping=0.1).step(problem.objective)
