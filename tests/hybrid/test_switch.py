"""A switch goes from one optimizer to another once, by its rule, and hands everything over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import assert_same_state, function, rosenbrock, run, training


def events(optimizer: Any, problem: Any, steps: range, *, full: bool = True) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for step in steps:
        optimizer.step(problem.objective if full else problem.batch(step))
        found += [(step, event) for event in optimizer.report.events]
    return found


def test_each_phase_is_the_member_alone() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(
        "switch", problem.model.parameters(), at_step=3, first_options={"lr": 0.05}, second_options={"history": 4}
    )
    losses = run(optimizer, problem, range(7), full=True)
    twin = training(dtype=torch.float64)
    expected = run(ho.create("adam", twin.model.parameters(), lr=0.05), twin, range(3), full=True)
    expected += run(ho.create("lbfgs", twin.model.parameters(), history=4), twin, range(4), full=True)
    assert losses == expected


def test_adam_lbfgs_is_that_switch() -> None:
    first, second = training(dtype=torch.float64), training(dtype=torch.float64)
    named = ho.create("adam_lbfgs", first.model.parameters(), lr=0.05, history=4, at_step=3, weight_decay=0.1)
    spelt = ho.create(
        "switch",
        second.model.parameters(),
        at_step=3,
        first_options={"lr": 0.05, "weight_decay": 0.1},
        second_options={"lr": 1.0, "history": 4, "weight_decay": 0.1},
    )
    assert run(named, first, range(6), full=True) == run(spelt, second, range(6), full=True)
    assert named.config.history == 4


@pytest.mark.parametrize("at_step", [1, 4])
def test_the_step_rule_is_met_to_the_step_and_once(at_step: int) -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=at_step)
    found = [(step, event) for step, event in events(optimizer, problem, range(10)) if event["event"] == "switch"]
    assert found == [
        (at_step - 1, {"event": "switch", "from": "adam", "to": "lbfgs", "reason": "step", "at_step": at_step})
    ]
    assert optimizer.report.member == "lbfgs"


def test_the_plateau_rule_waits_for_a_plateau() -> None:
    def at(lr: float) -> int | None:
        problem = training()
        optimizer = ho.create(
            "switch",
            problem.model.parameters(),
            first="sgd",
            first_options={"lr": lr},
            plateau_window=3,
            plateau_tolerance=1e-2,
        )
        found = events(optimizer, problem, range(30))
        return next((step for step, event in found if event["event"] == "switch"), None)

    assert at(0.0) == 5  # two windows of three equal losses
    assert at(0.5) is None or at(0.5) > 8


def test_the_rates_of_the_groups_become_the_seconds_own() -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), lr=0.02, lbfgs_lr=0.7, at_step=2)
    rates = []
    for step in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(problem.batch(step))
    assert rates == [0.02, 0.02, 0.7, 0.7]


def test_the_first_members_state_is_dropped_at_the_switch() -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    run(optimizer, problem, range(1))
    assert len([key for key in optimizer.state if not isinstance(key, str)]) == 4
    run(optimizer, problem, range(1, 3))
    assert [key for key in optimizer.state if not isinstance(key, str)] == []


def test_the_members_share_the_very_groups_also_after_a_load_and_a_copy() -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    run(optimizer, problem, range(1))
    saved = optimizer.state_dict()
    other = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    other.load_state_dict(saved)
    for hybrid in (optimizer, other):
        for member in hybrid._members:
            assert member.param_groups is hybrid.param_groups
            assert member.state is hybrid.state
    other.param_groups[0]["lr"] = 0.0
    before = problem.parameters()
    run(other, problem, range(1))
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)


def test_a_saved_second_phase_is_loaded_into_a_fresh_switch() -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    run(optimizer, problem, range(5), full=True)
    fresh = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.active.family == "quasi-newton"
    assert_same_state(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize(
    "second", ["sgd", "lbfgs", "newton_cg", "trust_newton_cg", "saddle_free_newton", "torch:AdamW"]
)
@pytest.mark.parametrize("first", ["momentum", "newton_cg", "torch:NAdam"])
def test_any_two_plain_optimizers_can_be_members(first: str, second: str) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("switch", problem.model.parameters(), first=first, second=second, at_step=2)
    losses = run(optimizer, problem, range(6), full=True)
    assert problem.objective.value() < losses[0]


def test_switching_pays_off_on_rosenbrock() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("adam_lbfgs", objective.model.parameters(), at_step=20)
    for _ in range(80):
        optimizer.step(objective)
    assert objective.value() < 1e-14


def test_groups_keep_their_own_rates_in_both_phases() -> None:
    problem = training(dtype=torch.float64)
    groups = [{"params": problem.model[0].parameters(), "lr": 0.0}, {"params": problem.model[2].parameters()}]
    optimizer = ho.create("adam_lbfgs", groups, at_step=2)
    before = problem.model[0].weight.detach().clone()
    losses = run(optimizer, problem, range(6), full=True)
    assert torch.equal(problem.model[0].weight, before)
    assert problem.objective.value() < losses[0]


def test_an_escape_that_is_undone_does_not_undo_a_switch_by_halves() -> None:
    # The stall comes in the fourth step, the switch is due in the sixth, in the escape's window; the jump is far
    # too long and is undone.
    problem = training(dtype=torch.float64)
    escape = {
        "name": "perturbation",
        "stall_window": 2,
        "stall_tolerance": 10.0,
        "window": 4,
        "radius": 100.0,
        "tries": 1,
    }
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=6, lr=1e-4, escape=escape)
    found = events(optimizer, problem, range(12))
    names = [event["event"] for _, event in found]
    assert names.index("escape_jump") < names.index("escape_undone") < names.index("switch")
    assert optimizer.report.member == "lbfgs"
    assert optimizer.param_groups[0]["lr"] == 1.0
    switched = next(step for step, event in found if event["event"] == "switch")
    undone = next(step for step, event in found if event["event"] == "escape_undone")
    assert switched >= undone


def test_an_escape_works_in_either_phase() -> None:
    for at_step in (3, 200):
        objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, [0.0, 0.0])
        optimizer = ho.create(
            "switch",
            objective.model.parameters(),
            first="sgd",
            at_step=at_step,
            escape={"name": "negative_curvature", "window": 5},
        )
        for _ in range(60):
            optimizer.step(objective)
        assert objective.value() == pytest.approx(-0.5, abs=1e-6)


def test_only_the_active_member_steps() -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=2)
    calls: list[int] = []
    for index, member in enumerate(optimizer._members):
        member.register_step_pre_hook(lambda *_, index=index: calls.append(index))
    run(optimizer, problem, range(4))
    assert calls == [0, 0, 1, 1]
