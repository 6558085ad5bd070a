"""The rules of a switch, several stages, and what one member leaves to the next."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from hybridopt.hybrid.rules import Step, Until, due
from tests.optimizers.catalogue import assert_same_state, run, training


def switches(optimizer: Any, problem: Any, steps: int, *, full: bool = False) -> list[dict[str, Any]]:
    found = []
    for step in range(steps):
        optimizer.step(problem.objective if full else problem.batch(step))
        found += [event for event in optimizer.report.events if event["event"] == "switch"]
    return found


# -- stages -------------------------------------------------------------------------------------------------------


def test_three_stages_are_the_three_members_alone() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    stages = [
        {"name": "adam", "options": {"lr": 0.05}, "until": {"at_step": 2}},
        {"name": "lbfgs", "options": {"history": 4}, "until": {"at_step": 3}},
        {"name": "newton_cg"},
    ]
    optimizer = ho.create("switch", problem.model.parameters(), stages=stages)
    losses = run(optimizer, problem, range(7), full=True)
    expected = run(ho.create("adam", twin.model.parameters(), lr=0.05), twin, range(2), full=True)
    expected += run(ho.create("lbfgs", twin.model.parameters(), history=4), twin, range(3), full=True)
    expected += run(ho.create("newton_cg", twin.model.parameters()), twin, range(2), full=True)
    assert losses == expected
    assert optimizer.report.member == "newton_cg"
    fresh = ho.create("switch", problem.model.parameters(), stages=stages)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.active.family == "newton"


def test_adam_lbfgs_nncg_is_such_a_switch() -> None:
    first, second = training(dtype=torch.float64), training(dtype=torch.float64)
    named = ho.create(
        "adam_lbfgs_nncg", first.model.parameters(), lr=0.05, at_step=2, lbfgs_steps=2, damping=0.1, rank=4
    )
    nncg = {"damping": 0.1, "rank": 4}
    stages = [
        {"name": "adam", "options": {"lr": 0.05}, "until": {"at_step": 2}},
        {"name": "lbfgs", "options": {"history": 100}, "until": {"at_step": 2}},
        {"name": "nystrom_newton_cg", "options": nncg},
    ]
    spelt = ho.create("switch", second.model.parameters(), stages=stages)
    assert run(named, first, range(7), full=True) == run(spelt, second, range(7), full=True)
    assert named.report.member == "nystrom_newton_cg"


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"stages": ["adam"]}, ConfigError, "at least two"),
    ({"stages": ["adam", {"name": "lbfgs", "until": {"at_step": 3}}]}, ConfigError, "no successor"),
    ({"stages": ["adam", {"nam": "lbfgs"}]}, ConfigError, "with a name"),
    ({"stages": ["adam", {"name": "lbfgs", "opts": {}}]}, ConfigError, "no opts"),
    ({"stages": [{"name": "adam", "until": {"at_stepp": 1}}, "lbfgs"]}, ConfigError, "Did you mean 'at_step'"),
    ({"stages": ["adam", "lbfgs"], "at_step": 3}, ConfigError, "leave out at_step"),
    ({"stages": ["adam", "lbfgs"], "first": "sgd"}, ConfigError, "leave out first"),
    ({"second_options": {"c1": 0.9, "c2": 0.1}}, ConfigError, "LBFGS: c1 must be below c2"),
    ({"plateau_window": 0}, ConfigError, "needs a rule"),
    ({"first": "lookahead"}, CombinationError, "itself a hybrid"),
    ({"ratio_below": 0.1}, CombinationError, "'adam' has no model"),
])  # fmt: skip
def test_what_cannot_work_is_refused_at_construction(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ho.create("switch", training().model.parameters(), **options)


def test_each_stage_has_all_options_of_its_own() -> None:
    problem = training()
    optimizer = ho.create(
        "switch", problem.model.parameters(), first="momentum", second="momentum", at_step=1,
        first_options={"lr": 0.1, "momentum": 0.5}, second_options={"lr": 0.2, "momentum": 0.8},
    )  # fmt: skip
    run(optimizer, problem, range(1))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.2, 0.8)


# -- rules --------------------------------------------------------------------------------------------------------


def test_a_function_may_say_when() -> None:
    problem = training()
    seen = []

    def rule(optimizer: Any, objective: ho.Objective) -> str | None:
        seen.append((optimizer.report.member, objective.key))
        return "enough" if len(seen) == 3 else None

    optimizer = ho.create("switch", problem.model.parameters(), plateau_window=0, rule=rule)
    (event,) = switches(optimizer, problem, 6)
    assert (event["reason"], event["at_step"], len(seen)) == ("enough", 3, 3)


def test_the_ratio_rule_leaves_a_model_that_is_not_trusted() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(
        "switch", problem.model.parameters(), first="trust_newton_cg", second="sgd", plateau_window=0,
        ratio_above=0.5, ratio_window=3,
    )  # fmt: skip
    (event,) = switches(optimizer, problem, 8, full=True)
    assert event["reason"] == "ratio"
    assert event["ratio"] > 0.5
    assert event["at_step"] == 3


def test_the_projection_rule_gives_its_rate_to_a_first_order_successor() -> None:
    problem = training()
    optimizer = ho.create(
        "switch", problem.model.parameters(), first="sgd", second="momentum", plateau_window=0, projection=1e-5,
        first_options={"lr": 0.07},
    )  # fmt: skip
    (event,) = switches(optimizer, problem, 4)
    # The steps of gradient descent amount to its own rate.
    assert (event["reason"], event["at_step"]) == ("projection", 2)
    assert event["rate"] == pytest.approx(0.07, rel=1e-4)
    assert optimizer.param_groups[0]["lr"] == event["rate"]


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_the_noise_scale_is_that_of_the_gradients(spread: float) -> None:
    # Gradients 1 + spread / sqrt(B) * normal in each of 50 entries: tr(S) / |G|^2 = spread^2.
    random = torch.Generator().manual_seed(0)
    until, memory, found = Until(plateau_window=0, noise_scale=1e-9, noise_window=200), {}, None
    for step in range(300):
        gradient = 1 + spread / 4 * torch.randn(50, generator=random, dtype=torch.float64)
        seen = Step(torch.tensor(1.0), None, f"batch-{step}", 16, [gradient], None)
        found = found or due(until, memory, seen)
    assert found is not None
    assert found[1]["noise_scale"] == pytest.approx(spread**2, rel=0.1)


def test_noise_ends_a_stage_on_mini_batches_but_never_on_the_full_batch() -> None:
    options = {"first": "sgd", "second": "adam", "plateau_window": 0, "noise_scale": 1e-3, "noise_window": 4}
    problem = training()
    assert switches(ho.create("switch", problem.model.parameters(), **options), problem, 20, full=True) == []
    (event,) = switches(ho.create("switch", problem.model.parameters(), **options), problem, 20)
    assert event["reason"] == "noise_scale"
    assert event["noise_scale"] > 1e-3


@pytest.mark.parametrize("options", [
    {"noise_scale": 1e9, "noise_window": 3}, {"projection": 1e-12}, {"plateau_window": 3},
], ids=str)  # fmt: skip
def test_rules_go_on_after_a_resume_and_in_copies(options: dict[str, Any]) -> None:
    options = {"plateau_window": 0, "first": "momentum", "second": "adam", **options}
    problem, twin = training(), training()
    optimizer = ho.create("switch", problem.model.parameters(), **options)
    run(optimizer, problem, range(4))
    other = ho.create("switch", twin.model.parameters(), **options)
    twin.model.load_state_dict(problem.model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert run(other, twin, range(4, 9)) == run(optimizer, problem, range(4, 9))
    assert_same_state(other.state_dict(), optimizer.state_dict())
    assert pickle.loads(pickle.dumps(optimizer)).stage == optimizer.stage


# -- hand-over ----------------------------------------------------------------------------------------------------


def test_adam_to_adam_goes_on_as_if_nothing_had_happened() -> None:
    problem, twin = training(), training()
    options = {"lr": 0.02}
    optimizer = ho.create(
        "switch", problem.model.parameters(), second="adam", at_step=4, first_options=options, second_options=options
    )
    (event,) = switches(optimizer, problem, 4)
    assert event["handed_over"] == ["mean", "square"]
    alone = ho.create("adam", twin.model.parameters(), **options)
    run(alone, twin, range(4))
    torch.testing.assert_close(run(optimizer, problem, range(4, 10)), run(alone, twin, range(4, 10)), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("first", "second", "taken"), [
    ("adam", "momentum", ["mean"]), ("rmsprop", "adam", ["square"]), ("adam", "rmsprop", ["square"]),
    ("adam", "amsgrad", ["mean", "square"]), ("momentum", "nesterov", ["mean"]), ("momentum", "adam", None),
    ("adam", "lbfgs", None), ("sgd", "momentum", None), ("adam", "sgd", None),
])  # fmt: skip
def test_what_is_taken(first: str, second: str, taken: list[str] | None) -> None:
    problem = training()
    optimizer = ho.create("switch", problem.model.parameters(), first=first, second=second, at_step=3)
    (event,) = switches(optimizer, problem, 3)
    assert event.get("handed_over") == taken
    before = problem.objective.value()
    run(optimizer, problem, range(3, 6))
    assert problem.objective.value() == problem.objective.value() != before


def test_momentum_gets_adams_mean_gradient() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(
        "switch", problem.model.parameters(), second="momentum", at_step=5, second_options={"momentum": 0.8}
    )
    run(optimizer, problem, range(4), full=True)
    weight = problem.model[0].weight
    mean = optimizer.state[weight]["exp_avg"].clone()
    run(optimizer, problem, range(1), full=True)
    expected = (0.9 * mean + 0.1 * weight.grad) / (1 - 0.9**5) / (1 - 0.8)
    torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], expected)


def test_nothing_is_handed_over_when_that_is_off() -> None:
    problem = training()
    optimizer = ho.create("switch", problem.model.parameters(), second="adam", at_step=3, hand_over=False)
    (event,) = switches(optimizer, problem, 3)
    assert "handed_over" not in event
    assert [key for key in optimizer.state if not isinstance(key, str)] == []
