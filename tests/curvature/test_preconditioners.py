"""Preconditioners: what they invert, what they cost, and that they make badly scaled systems easy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.core import CombinationError, UnknownNameError
from hybridopt.curvature.preconditioners import Preconditioner, register, registry
from hybridopt.linalg import cg
from hybridopt.linalg.operator import Dense, Identity, SymmetricOperator
from hybridopt.objective import Objective
from hybridopt.optimizers.preconditioned import PreconditionedConfig, Preconditioning, forget
from tests.cases import BY_NAME
from tests.curvature.reference import derivative, objective_of

FLOAT = torch.float64
NAMES = list(registry._builtins)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def prepare(name: str, point: Any, curvature: SymmetricOperator, damping: float, size: int = 20) -> Any:
    part: Preconditioner = registry.get(name)(size)
    return part.inverse(part.build(point, curvature, generator()), damping)


def as_matrix(inverse: Any, n: int) -> torch.Tensor:
    return torch.stack([inverse(column) for column in torch.eye(n, dtype=FLOAT)], dim=1)


def badly_scaled() -> Objective:
    """A linear model whose inputs differ in size by a thousand."""
    torch.manual_seed(0)
    scales = torch.logspace(-1.5, 1.5, 50, dtype=FLOAT)
    inputs = torch.randn(150, 50, dtype=FLOAT) * scales
    model = nn.Linear(50, 2).double()
    return Objective(model, F.mse_loss, inputs, torch.randn(150, 2, dtype=FLOAT))


def test_martens_is_the_power_of_the_damped_mean_of_squares():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    model, inputs, targets = objective.model, objective.inputs, objective.targets
    rows = torch.stack(
        [
            derivative(F.cross_entropy(model(inputs[n : n + 1]), targets[n : n + 1]), list(model.parameters()))
            for n in range(6)
        ]
    )
    point = objective.at()
    found = as_matrix(prepare("martens", point, point.gauss_newton(), 0.3), objective.space.n)
    torch.testing.assert_close(found, torch.diag((rows.square().mean(0) + 0.3) ** -0.75))
    assert objective.ledger.counts == {"forward": 0, "gradient": 2, "hvp": 0, "ggnvp": 0}


def test_martens_knows_weight_decay():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    groups = [{"params": list(objective.model.parameters()), "weight_decay": 0.2}]
    found, wanted = (
        as_matrix(prepare("martens", point, point.gauss_newton(), damping), point.space.n)
        for point, damping in ((objective.bind(groups, regularize=True).at(), 0.1), (objective.at(), 0.3))
    )
    torch.testing.assert_close(found, wanted)


def test_the_diagonal_is_exact_with_as_many_products_as_parameters():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    point = objective.at()
    found = as_matrix(prepare("diagonal", point, point.hessian(), 0.1, size=10_000), objective.space.n)
    torch.testing.assert_close(found, torch.diag(1 / (point.hessian().dense().diagonal().abs() + 0.1)))
    before = objective.ledger.counts["hvp"]
    prepare("diagonal", point, point.hessian(), 0.1, size=7)
    assert objective.ledger.counts["hvp"] == before + 7


@pytest.mark.parametrize("name", NAMES)
def test_every_inverse_is_symmetric_and_positive_definite(name: str):
    objective = badly_scaled()
    point = objective.at()
    part = registry.get(name)(20)
    curvature = point.gauss_newton()
    state = part.build(point, curvature, generator())
    cg(part.watch(curvature) + 0.01 * Identity(), -point.gradient)
    state = part.learn() or state
    for damping in (0.0, 1e-3, 10.0):
        matrix = as_matrix(part.inverse(state, damping), curvature.n)
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-6, atol=1e-6 * float(matrix.abs().max()))
        assert torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0] > 0


@pytest.mark.parametrize("name", ["diagonal", "martens", "nystrom", "kfac"])
def test_badly_scaled_systems_take_fewer_iterations(name: str):
    point = badly_scaled().at()
    curvature = point.gauss_newton()
    part = registry.get(name)(40)
    state = part.build(point, curvature, generator())
    damped = part.watch(curvature) + 1e-4 * Identity()
    plain = cg(damped, -point.gradient, rtol=1e-6, max_iter=1000)
    state = part.learn() or state
    inverse = part.inverse(state, 1e-4)
    # The same system, but another right-hand side, as in the next step.
    other = torch.randn(curvature.n, dtype=FLOAT, generator=generator())
    before, after = (cg(damped, other, rtol=1e-6, max_iter=1000, preconditioner=p) for p in (None, inverse))
    assert plain.status == before.status == after.status == "converged"
    assert after.iterations < 0.7 * before.iterations, (before.iterations, after.iterations)


def test_lbfgs_helps_with_a_right_hand_side_like_the_last():
    point = badly_scaled().at()
    curvature = point.gauss_newton()
    part = registry.get("lbfgs")(10)
    cg(part.watch(curvature) + 1e-4 * Identity(), -point.gradient, rtol=1e-2)
    inverse = part.inverse(part.learn(), 1e-4)
    noise = torch.randn(curvature.n, dtype=FLOAT, generator=generator())
    right = -point.gradient * (1 + 0.1 * noise)
    damped = curvature + 1e-4 * Identity()
    before, after = (cg(damped, right, rtol=1e-2, preconditioner=p) for p in (None, inverse))
    assert before.status == after.status == "converged"
    assert after.iterations < before.iterations


def test_lbfgs_pairs_of_all_directions_are_the_inverse_under_any_damping():
    half = torch.randn(10, 10, dtype=FLOAT, generator=generator())
    matrix = half @ half.T + 0.1 * torch.eye(10, dtype=FLOAT)
    part = registry.get("lbfgs")(10)
    operator = part.watch(Dense(matrix))
    right = torch.randn(10, dtype=FLOAT, generator=generator())
    cg(operator, right, rtol=1e-12, max_iter=10)
    state = part.learn()
    assert state["steps"].shape == (10, 10)
    inverse = part.inverse(state, 0.0)
    torch.testing.assert_close(as_matrix(inverse, 10), torch.linalg.inv(matrix), rtol=1e-5, atol=1e-5)
    after = cg(Dense(matrix) + 0.01 * Identity(), right.flip(0), preconditioner=part.inverse(state, 0.01), rtol=1e-8)
    assert after.iterations <= 6


def test_lbfgs_is_the_bfgs_matrix_of_its_pairs_with_the_damping():
    half = torch.randn(7, 7, dtype=FLOAT, generator=generator())
    part = registry.get("lbfgs")(4)
    cg(part.watch(Dense(half @ half.T)), torch.ones(7, dtype=FLOAT), max_iter=4)
    state = part.learn()
    steps, changes = state["steps"], state["changes"] + 0.7 * state["steps"]
    wanted = torch.eye(7, dtype=FLOAT) * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        left = torch.eye(7, dtype=FLOAT) - torch.outer(s, y) / (s @ y)
        wanted = left @ wanted @ left.T + torch.outer(s, s) / (s @ y)
    torch.testing.assert_close(as_matrix(part.inverse(state, 0.7), 7), wanted)


def test_lbfgs_keeps_pairs_at_even_distances():
    part = registry.get("lbfgs")(4)
    operator = part.watch(Dense(torch.diag(torch.arange(1.0, 41.0, dtype=FLOAT))))
    for column in torch.eye(40, dtype=FLOAT)[:21]:
        operator @ column
    kept = part.learn()["steps"].argmax(1).tolist()
    assert kept == [0, 8, 16]


def test_lbfgs_leaves_out_negative_curvature():
    part = registry.get("lbfgs")(4)
    operator = part.watch(Dense(torch.diag(torch.tensor([1.0, -1.0, 4.0], dtype=FLOAT))))
    for column in torch.eye(3, dtype=FLOAT):
        operator @ column
    state = part.learn()
    matrix = as_matrix(part.inverse(state, 0.0), 3)
    assert torch.linalg.eigvalsh(matrix)[0] > 0
    torch.testing.assert_close(matrix[0, 0].item(), 1.0)
    only = {"steps": state["steps"][1:2], "changes": state["changes"][1:2]}
    assert part.inverse(only, 0.0) is None
    assert part.inverse({}, 0.0) is None


@pytest.mark.parametrize("name", ["martens", "kfac"])
def test_what_needs_outputs_says_so(name: str):
    point = Objective.from_function(lambda x: (x**2).sum(), torch.ones(3, dtype=FLOAT)).at()
    with pytest.raises(CombinationError):
        prepare(name, point, point.hessian(), 0.1)


def test_martens_serves_coupled_data_and_unusual_layers():
    for case in ("batch_norm_train", "layer_norm", "embedding", "dropout_train"):
        point = objective_of(BY_NAME[case], FLOAT).at()
        inverse = prepare("martens", point, point.gauss_newton(), 0.1)
        assert (inverse(torch.ones(point.space.n, dtype=FLOAT)) > 0).all()


def test_a_zero_matrix_without_damping_is_no_division_by_zero():
    part = registry.get("diagonal")(4)
    inverse = part.inverse({"values": torch.zeros(3, dtype=FLOAT)}, 0.0)
    assert torch.isfinite(inverse(torch.ones(3, dtype=FLOAT))).all()


def step(memory: dict[str, Any], point: Any, **options: Any) -> Preconditioning:
    optimizer: Any = SimpleNamespace(config=PreconditionedConfig(**options), memory=memory)
    return Preconditioning(optimizer, point, point.gauss_newton(), 0.1)


def test_it_is_built_again_when_due():
    objective = badly_scaled()
    point = objective.at()
    memory: dict[str, Any] = {}
    gradients = []
    for _ in range(5):
        before = objective.ledger.counts["gradient"]
        step(memory, point, preconditioner="martens", preconditioner_refresh=3)
        gradients.append(objective.ledger.counts["gradient"] - before)
    assert gradients == [1, 0, 0, 1, 0]
    forget(memory)
    before = objective.ledger.counts["gradient"]
    step(memory, point, preconditioner="martens", preconditioner_refresh=3)
    assert objective.ledger.counts["gradient"] - before == 1


def test_its_random_numbers_go_on():
    point = badly_scaled().at()
    memory: dict[str, Any] = {}
    states = []
    for _ in range(2):
        step(memory, point, preconditioner="diagonal", preconditioner_size=3)
        states.append(memory["preconditioner"]["state"]["values"])
    assert not torch.equal(*states)
    again: dict[str, Any] = {}
    step(again, point, preconditioner="diagonal", preconditioner_size=3)
    assert torch.equal(again["preconditioner"]["state"]["values"], states[0])


def test_one_of_your_own_is_used_by_its_name():
    @register("mine")
    class Mine(Preconditioner):
        def build(self, point: Any, curvature: SymmetricOperator, generator: torch.Generator) -> dict[str, Any]:
            return {"scale": 2.0}

        def inverse(self, state: dict[str, Any], damping: float) -> Any:
            return lambda vector: vector / (state["scale"] + damping)

    try:
        system = step({}, badly_scaled().at(), preconditioner="mine")
        vector = torch.ones(system.operator.n, dtype=FLOAT)
        torch.testing.assert_close(system.inverse(vector), vector / 2.1)
    finally:
        registry._registered.pop("mine")


def test_senseless_options_are_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'martens'"):
        PreconditionedConfig(preconditioner="marten")
    for name in ("lbfgs", "kfac"):
        with pytest.raises(CombinationError, match="preconditioner_refresh=1"):
            PreconditionedConfig(preconditioner=name, preconditioner_refresh=2)
