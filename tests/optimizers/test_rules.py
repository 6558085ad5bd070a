"""A rule is the same step as its optimizer: in eager use, mapped over lanes, and broadcast where it is elementwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridopt.factory import create
from hybridopt.objective import Objective
from hybridopt.optimizers import registry
from hybridopt.optimizers.rules import Rule, declared

STEPS = 12

CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"lr": 0.05}),
    ("sgd", {"lr": 0.05, "weight_decay": 0.1}),
    ("momentum", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3}),
    ("nesterov", {"lr": 0.02, "weight_decay": 0.01}),
    ("adam", {"lr": 0.03}),
    ("adam", {"lr": 0.03, "betas": [0.7, 0.95], "eps": 1e-3, "weight_decay": 0.1}),
    ("amsgrad", {"lr": 0.05, "betas": [0.5, 0.6]}),
    ("adamw", {"lr": 0.03, "weight_decay": 0.2}),
    ("adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.01, "momentum": 0.6, "centered": True, "weight_decay": 0.05}),
    ("adadelta", {"lr": 0.7, "rho": 0.8}),
    ("adamax", {"lr": 0.02}),
    ("radam", {"lr": 0.02, "betas": [0.9, 0.95]}),
    ("radam", {"lr": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("nadam", {"lr": 0.02, "weight_decay": 0.1}),
    ("nadam", {"lr": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("lion", {"lr": 0.01, "weight_decay": 0.3}),
]


def eager(name: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Any]:
    """Runs the optimizer; returns all points and gradients of one parameter, and the optimizer."""
    generator = torch.Generator().manual_seed(3)
    model = torch.nn.Linear(4, 3, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=generator))
    inputs = torch.randn(16, 4, generator=generator).to(dtype)
    targets = torch.randn(16, 3, generator=generator).to(dtype)
    optimizer = create(name, model.parameters(), **options)
    objective = Objective(model, torch.nn.functional.mse_loss, inputs, targets)
    points, gradients = [model.weight.detach().clone()], []
    for _ in range(STEPS):
        optimizer.step(objective)
        gradients.append(model.weight.grad.clone())
        points.append(model.weight.detach().clone())
    return points, gradients, optimizer


def numbers(rule: Rule, optimizer: Any) -> dict[str, Tensor]:
    values = rule.hyper(optimizer.param_groups[0])
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["f64", "f32"])
def test_rule_equals_the_optimizer(name: str, options: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    points, gradients, optimizer = eager(name, options, dtype)
    rule = declared(type(optimizer)).of(optimizer.config)
    hyper = numbers(rule, optimizer)
    p, state = points[0], rule.init(points[0], hyper)
    for step, (g, after) in enumerate(zip(gradients, points[1:], strict=True), start=1):
        before = p.clone()
        new, state = rule.update(p, g, state, hyper, torch.tensor(float(step), dtype=torch.float64))
        assert torch.equal(p, before), "the argument was written to"
        assert new.dtype == dtype
        assert (new - after).abs().max() <= tolerance * after.abs().max()
        p = new
    kept = optimizer.state[optimizer.param_groups[0]["params"][0]]
    known = {key: value for key, value in kept.items() if key != "step" and value is not None}
    assert known.keys() == state.keys()
    assert ("step" in kept) == rule.counted
    for key, value in known.items():
        assert value.dtype == state[key].dtype
        torch.testing.assert_close(state[key], value, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_lanes_are_separate_calls(name: str) -> None:
    """Mapped over lanes with numbers of their own, and broadcast, a rule gives what it gives one by one."""
    options = [{"lr": 0.01}, {"lr": 0.1, "weight_decay": 0.3}, {"lr": 1.0}]
    optimizers = [create(name, torch.nn.Linear(4, 3).double().parameters(), **own) for own in options]
    rule = declared(type(optimizers[0]))
    hypers = [numbers(rule, optimizer) for optimizer in optimizers]
    stacked = {key: torch.stack([hyper[key] for hyper in hypers]) for key in hypers[0]}
    t = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    p, g = torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 3, 4, dtype=torch.float64)
    g[1] = torch.nan
    single = []
    for lane, hyper in enumerate(hypers):
        state = {key: value + 0.5 for key, value in rule.init(p[lane], hyper).items()}
        single.append(rule.update(p[lane], g[lane], state, hyper, t[lane]))
    states = {key: value + 0.5 for key, value in torch.vmap(rule.init)(p, stacked).items()}
    mapped, after = torch.vmap(rule.update)(p, g, states, stacked, t)
    for lane, (expected, state) in enumerate(single):
        torch.testing.assert_close(mapped[lane], expected, rtol=1e-13, atol=0, equal_nan=True)
        for key, value in state.items():
            torch.testing.assert_close(after[key][lane], value, rtol=1e-13, atol=0, equal_nan=True)
    if rule.elementwise:
        flat = {key: value.flatten(1) for key, value in states.items()}
        columns = {key: value[:, None] for key, value in stacked.items()}
        broadcast, _ = rule.update(p.flatten(1), g.flatten(1), flat, columns, t[:, None])
        torch.testing.assert_close(broadcast, mapped.flatten(1), rtol=1e-13, atol=0, equal_nan=True)


def test_every_declared_rule_is_tested() -> None:
    tested = {name for name, _ in CASES}
    assert {name for name in registry.names() if declared(registry.get(name)) is not None} == tested


def test_a_subclass_does_not_inherit_the_rule() -> None:
    class Other(registry.get("adam")):
        """Steps otherwise."""

    assert declared(Other) is None


def test_what_a_rule_cannot_follow_is_named() -> None:
    optimizer = create("adam", torch.nn.Linear(2, 1).parameters(), hypergradient=1e-4)
    assert declared(type(optimizer)).refusal(optimizer.config) == "hypergradient"
