"""Hypergradient descent on the learning rate: the paper's algorithms written out, and nothing when it is off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import Training, assert_same_state, function, run, training
from tests.optimizers.test_resume import check

METHODS = {"sgd": 1e-2, "momentum": 1e-3, "nesterov": 1e-3, "adam": 1e-4}


def directions(name: str) -> Callable[[Tensor], Tensor]:
    """Returns the direction d of the update -a d, from the gradient, as the paper's algorithms 4 to 6 have it."""
    memory: dict[str, Any] = {"v": 0.0, "s": 0.0, "t": 0}

    def direction(g: Tensor) -> Tensor:
        memory["t"] += 1
        if name == "sgd":
            return g
        if name == "adam":
            memory["v"] = 0.9 * memory["v"] + 0.1 * g
            memory["s"] = 0.999 * memory["s"] + 0.001 * g**2
            root = (memory["s"] / (1 - 0.999 ** memory["t"])).sqrt()
            return memory["v"] / (1 - 0.9 ** memory["t"]) / (root + 1e-8)
        memory["v"] = 0.9 * memory["v"] + g
        return g + 0.9 * memory["v"] if name == "nesterov" else memory["v"]

    return direction


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("name", METHODS)
def test_the_algorithms_of_the_paper(name: str, decay: float) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    beta, rate = METHODS[name], 0.02
    options = {"lr": rate, "hypergradient": beta, "weight_decay": decay}
    optimizer = ho.create(name, problem.model.parameters(), **options)
    parameters = list(twin.model.parameters())
    direction = directions(name)
    x, last = torch.cat([p.detach().reshape(-1) for p in parameters]), None
    rates = []
    for step in range(8):
        optimizer.step(problem.batch(step))
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(twin.batch(step)(), parameters)]) + decay * x
        if last is not None:
            rate = rate + beta * float(g @ last)
        last = direction(g)
        x = x - rate * last
        rates.append(rate)
        with torch.no_grad():
            for p, part in zip(parameters, x.split([p.numel() for p in parameters]), strict=True):
                p.copy_(part.view_as(p))
        assert optimizer.report.rate == pytest.approx(rate, rel=1e-9)
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-9, atol=1e-11)
    assert abs(rates[-1] - rates[0]) > 1e-3 * rates[0]


@pytest.mark.parametrize("name", METHODS)
def test_the_rate_moves_against_the_derivative_of_the_next_loss(name: str) -> None:
    # d loss(x - a d) / d a by differences is minus what the rate moves by, over beta.
    def after(rate: float) -> tuple[float, Any, Training]:
        problem = training(dtype=torch.float64)
        optimizer = ho.create(name, problem.model.parameters(), lr=rate, hypergradient=1e-4)
        run(optimizer, problem, range(1), full=True)
        return problem.objective.value(), optimizer, problem

    h = 1e-6
    slope = (after(0.05 + h)[0] - after(0.05 - h)[0]) / (2 * h)
    _, optimizer, problem = after(0.05)
    run(optimizer, problem, range(1), full=True)
    assert optimizer.report.rate - 0.05 == pytest.approx(-1e-4 * slope, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_off_it_leaves_no_trace(name: str) -> None:
    problem = training()
    optimizer = ho.create(name, problem.model.parameters(), hypergradient=0.0)
    run(optimizer, problem, range(3))
    state = optimizer.state_dict()["state"]
    assert "memory" not in state
    assert all("direction" not in entry for entry in state.values())
    assert "rate" not in optimizer.report


def test_a_rate_far_too_small_is_mended() -> None:
    values = []
    for beta in (0.0, 1e-3):
        objective = function(lambda x: (x**2).sum() / 2, [3.0, -1.0])
        optimizer = ho.create("sgd", objective.model.parameters(), lr=1e-3, hypergradient=beta)
        for _ in range(60):
            optimizer.step(objective)
        values.append(objective.value())
    assert values[1] < 0.1 * values[0]


def test_the_rate_never_falls_below_zero() -> None:
    # Far too long a step: the next gradient points back, and the correction is larger than the rate.
    objective = function(lambda x: (x**2).sum() / 2, [3.0])
    optimizer = ho.create("sgd", objective.model.parameters(), lr=2.5, hypergradient=1.0)
    optimizer.step(objective)
    before = objective.value()
    optimizer.step(objective)
    assert optimizer.report.rate == 0.0
    assert objective.value() == before
    assert float(optimizer.memory["learned"][0]) == -2.5  # no debt, so that the rate can rise at once


def test_groups_learn_rates_of_their_own_and_zero_holds_still() -> None:
    problem = training(dtype=torch.float64)
    groups = [
        {"params": [problem.model[0].weight], "lr": 0.0},
        {"params": [problem.model[0].bias], "lr": 0.05},
        {"params": problem.model[2].parameters()},
    ]
    optimizer = ho.create("momentum", groups, lr=0.1, hypergradient=1e-2)
    before = problem.model[0].weight.detach().clone()
    run(optimizer, problem, range(6))
    assert torch.equal(problem.model[0].weight, before)
    learned = [float(value) for value in optimizer.memory["learned"]]
    assert learned[1] != learned[2]
    assert optimizer.report.rate == 0.0
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.05, 0.1]


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_the_same_to_the_last_bit(name: str) -> None:
    def make(problem: Training) -> Any:
        return ho.create(name, problem.model.parameters(), lr=0.02, hypergradient=METHODS[name])

    check(make, "both", range(3, 5), torch.float32, full=False)


@pytest.mark.parametrize("how", ["foreach", "fused"])
@pytest.mark.parametrize("name", METHODS)
def test_the_same_in_every_implementation(name: str, how: str) -> None:
    states = []
    for options in ({"foreach": False}, {how: True}):
        problem = training()
        optimizer = ho.create(name, problem.model.parameters(), lr=0.02, hypergradient=METHODS[name], **options)
        run(optimizer, problem, range(4))
        states.append(problem.model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-6)


def test_no_value_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = training()
    optimizer = ho.create("sgd", problem.model.parameters(), hypergradient=1e-3)
    run(optimizer, problem, range(2))

    def refuse(self: Tensor) -> Any:
        raise AssertionError("a value was brought to the host")

    with monkeypatch.context() as patch:
        for name in ("item", "__float__", "__bool__", "tolist"):
            patch.setattr(Tensor, name, refuse)
        optimizer.step(problem.batch(2))
    assert optimizer.report.rate > 0


def test_freezing_between_steps_drops_the_old_direction() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.1, hypergradient=0.1)
    weight = problem.model[0].weight
    run(optimizer, problem, range(2))
    weight.requires_grad_(False)
    run(optimizer, problem, range(2, 3))
    assert "direction" not in optimizer.state[weight]
    weight.requires_grad_(True)
    run(optimizer, problem, range(3, 5))
    assert "direction" in optimizer.state[weight]
    assert not torch.equal(weight, twin.model[0].weight)


def test_a_jump_drops_the_last_direction() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.1, hypergradient=0.1)
    run(optimizer, problem, range(2))
    rate = optimizer.report.rate
    optimizer.moved(problem.objective, "escape")
    run(optimizer, problem, range(2, 3))
    assert optimizer.report.rate == rate


def test_a_group_that_maximizes_is_refused() -> None:
    problem = training()
    groups = [{"params": list(problem.model.parameters()), "maximize": True}]
    optimizer = ho.create("sgd", groups, hypergradient=0.1)
    with pytest.raises(ConfigError, match="maximize"):
        optimizer.step(problem.objective)


def test_the_state_of_a_plain_run_is_taken_over() -> None:
    problem = training()
    plain = ho.create("adam", problem.model.parameters())
    run(plain, problem, range(2))
    learning = ho.create("adam", problem.model.parameters(), hypergradient=1e-6)
    learning.load_state_dict(plain.state_dict())
    assert_same_state(learning.state_dict()["state"], plain.state_dict()["state"])
    run(learning, problem, range(2, 4))
