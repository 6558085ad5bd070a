"""Where a method tests its steps, weight decay is part of the function: the same run as with the term written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hybridopt as ho
from tests.optimizers.catalogue import GLOBALIZED, ON_OUTPUTS, Method, each, function, names, quadratic

DECAY = 0.3


@each(names("newton_cg", "trust_newton_cg", "hessian_free"))
def test_the_decay_is_in_the_gauss_newton_matrix(method: Method) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).double()
    inputs, targets = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    exact = {
        "newton_cg": {"damping": 0.0, "forcing": 1e-14},
        "trust_newton_cg": {"radius": 100.0, "forcing": 1e-14},
        "hessian_free": {"damping": 1e-12, "progress_tol": 1e-16},
    }[method.name]
    optimizer = ho.create(method.name, model.parameters(), curvature="gauss_newton", weight_decay=DECAY, **exact)
    optimizer.step(objective)
    gram = 2 / 20 * inputs.T @ inputs + DECAY * torch.eye(4, dtype=torch.float64)
    wanted = torch.linalg.solve(gram, 2 / 20 * inputs.T @ targets)
    torch.testing.assert_close(model.weight.T, wanted, rtol=1e-6, atol=1e-8)


@each(GLOBALIZED)
def test_groups_decay_by_their_own_strength(method: Method) -> None:
    objective = ho.Objective.from_function(
        lambda x: ((x[0] - 1) ** 2).sum() + ((x[1] - 1) ** 2).sum(),
        [torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)],
    )
    first, second = objective.model.parameters()
    more = {"curvature": "hessian"} if method.name in ON_OUTPUTS else {}
    optimizer = method.create([{"params": [first], "weight_decay": 2.0}, {"params": [second]}], **more)
    for _ in range(60):
        optimizer.step(objective)
    # 2 (x - 1) + w x = 0
    torch.testing.assert_close(first.detach(), torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.detach(), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_a_resumed_gradient_of_lbfgs_is_shown_without_the_decay() -> None:
    matrix, vector = quadratic(4)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(4).tolist())
    optimizer = ho.create("lbfgs", objective.model.parameters(), weight_decay=DECAY)
    for _ in range(3):
        x = objective.position()
        value, gradient = objective.value(), matrix @ x - vector
        assert float(optimizer.step(objective)) == pytest.approx(value, rel=1e-12)
        shown = next(objective.model.parameters()).grad
        torch.testing.assert_close(shown, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_escape_from_a_regularized_minimum_is_not_one_from_the_bare_function(name: str) -> None:
    # The origin is a saddle of the function and the minimum of the regularized one.
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, [0.0, 0.0])
    optimizer = ho.create(name, objective.model.parameters(), lr=0.01, weight_decay=10.0, escape="negative_curvature")
    events = []
    for _ in range(5):
        optimizer.step(objective)
        events += [event["event"] for event in optimizer.report.events]
    assert "no_escape" in events
    assert "escape_jump" not in events
    assert not objective.position().any()
