"""A loss that uses none of an optimizer's parameters, now or from some step on, or one of them only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from tests.optimizers.catalogue import ESCAPES, METHODS, ONE_FORWARD, Method, each, training


class Routed(nn.Module):
    """Its loss goes through all of `layer`, or its bias alone, or only through `other`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other, self.route = nn.Linear(4, 3), nn.Linear(4, 3), "layer"

    def forward(self, x: Tensor) -> Tensor:
        if self.route == "bias":
            return x[:, :3] + self.layer.bias
        return getattr(self, self.route)(x)


def go(optimizer: Any, objective: ho.Objective, steps: int) -> None:
    for _ in range(steps):
        assert torch.isfinite(optimizer.step(objective.with_batch(objective.inputs, objective.targets, key="new")))
        assert float(optimizer.report.loss) >= 0


@each(METHODS)
def test_none_is_used(method: Method) -> None:
    problem = training(Routed)
    problem.model.route = "other"
    optimizer = method.create(problem.model.layer.parameters(), **decay_off(method))
    before = [p.detach().clone() for p in problem.model.parameters()]
    go(optimizer, problem.objective, 3)
    assert all(torch.equal(p, q) for p, q in zip(before, problem.model.parameters(), strict=True))
    assert float(optimizer.report.grad_norm) == 0.0
    problem.model.route = "layer"
    start = problem.objective.value()
    for step in range(5):
        optimizer.step(problem.objective.with_batch(problem.inputs, problem.targets, key=str(step)))
    assert problem.objective.value() < start


def decay_off(method: Method) -> dict[str, Any]:
    """A decay of its own needs no gradient."""
    return {} if not method.registered or method.cls.coupled_decay else {"weight_decay": 0.0}


@each(ONE_FORWARD)
def test_one_is_used_and_then_none(method: Method) -> None:
    problem = training(Routed)
    problem.model.route = "bias"
    optimizer = method.create(problem.model.layer.parameters(), **decay_off(method))
    weight = problem.model.layer.weight.detach().clone()
    if method.name in ("kfac", "ekfac"):
        with pytest.raises(ho.core.CombinationError, match="no layer that it knows"):
            go(optimizer, problem.objective, 1)
        return
    go(optimizer, problem.objective, 3)
    if method.name != "curvilinear_newton":  # whose random probe lies in all parameters
        assert torch.allclose(weight, problem.model.layer.weight, rtol=0, atol=1e-6)
    problem.model.route = "other"
    go(optimizer, ho.Objective(problem.model, nn.functional.cross_entropy, problem.inputs, problem.targets), 3)
    assert torch.isfinite(problem.model.layer.bias).all()


@pytest.mark.parametrize("escape", ESCAPES[1:])
def test_an_escape_finds_nothing_to_move(escape: str) -> None:
    problem = training(Routed)
    problem.model.route = "other"
    for name in ("sgd", "lbfgs"):
        optimizer = ho.create(name, problem.model.layer.parameters(), escape=escape)
        go(optimizer, problem.objective, 6)


@pytest.mark.parametrize("rule", [{"projection": 0.1}, {"noise_scale": 0.1}, {"plateau_window": 2}])
def test_rules_of_a_switch(rule: dict[str, float]) -> None:
    problem = training(Routed)
    problem.model.route = "other"
    optimizer = ho.create("switch", problem.model.layer.parameters(), first="adam", second="sgd", **rule)
    go(optimizer, problem.objective, 5)
