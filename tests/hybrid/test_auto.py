"""A portfolio: trials from one point at equal cost, the best goes on, the others leave no trace but their bill."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from tests.optimizers.catalogue import assert_same_state, function, rosenbrock, run, training

SLOW = {"name": "sgd", "options": {"lr": 1e-6}}
GOOD = {"name": "adam", "options": {"lr": 0.05}}
BAD = {"name": "sgd", "options": {"lr": 1e4}}


def history(optimizer: Any, problem: Any, steps: range, *, full: bool = True) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for step in steps:
        optimizer.step(problem.objective if full else problem.batch(step))
        found += [(step, event) for event in optimizer.report.events if event["event"] in ("trial", "chosen")]
    return found


@pytest.mark.parametrize("full", [True, False], ids=["full batch", "mini-batches"])
@pytest.mark.parametrize("order", [[SLOW, GOOD, BAD], [BAD, SLOW, GOOD], [GOOD, BAD, SLOW]])
def test_the_best_goes_on_from_where_its_trial_ended(order: list[Any], full: bool) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("auto", problem.model.parameters(), portfolio=order, trial_cost=6.0, run_cost=1e9)
    found = history(optimizer, problem, range(18), full=full)
    assert [event["event"] for _, event in found] == ["trial", "trial", "trial", "chosen"]
    assert found[-1][1]["member"] == "adam"
    place = order.index(GOOD)
    alone = ho.create("adam", twin.model.parameters(), lr=0.05)
    run(alone, twin, range(6 * place, 6 * place + 6), full=full)
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    # And with the state that it had there.
    assert run(optimizer, problem, range(18, 22), full=full) == run(alone, twin, range(18, 22), full=full)


def test_every_trial_starts_from_the_same_point_and_costs_the_same() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(
        "auto", problem.model.parameters(), portfolio=[SLOW, "newton_cg", "lbfgs"], trial_cost=10.0, run_cost=1e9
    )
    start = problem.objective.value()
    firsts, found, losses = [], [], []
    last = ""
    for _ in range(60):
        losses.append(float(optimizer.step(problem.objective)))
        if optimizer.report.member != last and optimizer.report.trial:
            firsts.append(losses[-1])
            last = optimizer.report.member
        found += [event for event in optimizer.report.events if event["event"] == "trial"]
        if not optimizer.report.trial:
            break
    assert firsts == [start] * 3
    assert all(event["cost"] >= 10.0 for event in found)
    assert found[0]["steps"] == 10 > found[1]["steps"]
    assert min(event["score"] for event in found) == pytest.approx(losses[-1])


def test_trials_come_again_and_a_confirmed_member_runs_longer() -> None:
    problem = training()
    optimizer = ho.create(
        "auto", problem.model.parameters(), portfolio=[GOOD, SLOW], trial_cost=2.0, run_cost=3.0, growth=2.0
    )
    found = history(optimizer, problem, range(40))
    chosen = [step for step, event in found if event["event"] == "chosen"]
    # Four steps of trials, then 3, 6, 12 of the best.
    assert [after - before for before, after in itertools.pairwise(chosen)] == [7, 10, 16]


def test_the_one_that_runs_keeps_its_state_in_its_trial() -> None:
    problem = training()
    optimizer = ho.create("auto", problem.model.parameters(), portfolio=[GOOD, SLOW], trial_cost=2.0, run_cost=3.0)
    run(optimizer, problem, range(4 + 3), full=True)
    weight = problem.model[0].weight
    assert optimizer.report.trial is False
    assert float(optimizer.state[weight]["step"]) == 5
    run(optimizer, problem, range(1), full=True)
    assert optimizer.report.trial
    assert float(optimizer.state[weight]["step"]) == 6


def test_where_all_fail_the_point_is_that_from_which_they_set_out() -> None:
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    objective = function(lambda x: torch.where((x == start).all(), 0.0, torch.nan) + (x**2).sum(), start)
    optimizer = ho.create("auto", objective.model.parameters(), portfolio=[GOOD, BAD], trial_cost=2.0, run_cost=2.0)
    for _ in range(4):
        optimizer.step(objective)
    assert torch.equal(objective.position(), start)
    assert optimizer.report.events[-1]["event"] == "chosen"


def test_a_member_that_diverges_costs_its_trial_and_no_more() -> None:
    def steep(x: torch.Tensor) -> torch.Tensor:
        return (x**4).sum()

    objective = function(steep, [1.0, 2.0])
    wild = {"name": "sgd", "options": {"lr": 10.0}}
    optimizer = ho.create("auto", objective.model.parameters(), portfolio=[wild, GOOD], trial_cost=50.0)
    losses, failed = [], 0
    for _ in range(70):
        losses.append(float(optimizer.step(objective)))
        failed += "failed" in optimizer.report
        assert optimizer.report.loss == losses[-1]
    assert failed == 1
    assert all(value < float("inf") for value in losses)
    assert optimizer.report.member == "adam"
    assert ho.minimize(steep, torch.ones(2).double(), method="auto", options={"portfolio": [wild, "lbfgs"]}).success


@pytest.mark.parametrize("model", ["plain", "both"])
@pytest.mark.parametrize("stop", range(1, 12, 2))
def test_a_resume_goes_on_within_a_trial(model: str, stop: int) -> None:
    def make(problem: Any) -> Any:
        return ho.create(
            "auto", problem.model.parameters(), portfolio=["momentum", "lbfgs"], trial_cost=2.0, run_cost=2.0
        )

    problem, twin = training(model), training(model)
    optimizer = make(problem)
    run(optimizer, problem, range(stop))
    twin.model.load_state_dict(copy.deepcopy(problem.model.state_dict()))
    other = make(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    random = torch.get_rng_state()
    expected = run(optimizer, problem, range(stop, 14))
    torch.set_rng_state(random)
    assert run(other, twin, range(stop, 14)) == expected
    assert_same_state(other.state_dict(), optimizer.state_dict())


def test_a_trial_that_costs_nothing_any_more_ends() -> None:
    # L-BFGS has the gradient of the saddle from its first search, so its trial would never spend its share.
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, [1.0, 0.0])
    optimizer = ho.create("auto", objective.model.parameters(), portfolio=["lbfgs", "cubic_newton"], trial_cost=6.0)
    events = []
    for _ in range(12):
        optimizer.step(objective)
        events += [(event["event"], event["member"]) for event in optimizer.report.events]
    assert events == [("trial", "lbfgs"), ("trial", "cubic_newton"), ("chosen", "cubic_newton")]
    assert objective.value() == pytest.approx(-0.5)


def test_a_losers_trial_is_undone_with_the_buffers_but_paid() -> None:
    problem = training("batch_norm")
    optimizer = ho.create("auto", problem.model.parameters(), portfolio=[BAD, GOOD], trial_cost=2.0, run_cost=9.0)
    buffers = {name: value.clone() for name, value in problem.model.named_buffers()}
    position = problem.objective.position()
    run(optimizer, problem, range(2), full=True)
    assert torch.equal(problem.objective.position(), position)
    for name, value in problem.model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    assert problem.objective.ledger.counts["gradient"] == 2


def test_an_evaluation_in_a_trial_sees_the_point_it_set_out_from() -> None:
    problem = training("batch_norm")
    optimizer = ho.create("auto", problem.model.parameters(), portfolio=[BAD, GOOD], trial_cost=3.0, run_cost=9.0)
    saved = {name: value.clone() for name, value in problem.model.state_dict().items()}
    run(optimizer, problem, range(2), full=True)
    wild = {name: value.clone() for name, value in problem.model.state_dict().items()}
    with optimizer.evaluation():
        for name, value in problem.model.state_dict().items():
            assert torch.equal(value, saved[name]), name
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, wild[name]), name
    run(optimizer, problem, range(5), full=True)
    trained = problem.objective.position()
    with optimizer.evaluation():
        assert torch.equal(problem.objective.position(), trained)
    copy.deepcopy(optimizer)


def test_a_schedule_reaches_whoever_steps() -> None:
    problem = training()
    optimizer = ho.create("auto", problem.model.parameters(), portfolio=[SLOW, GOOD], trial_cost=2.0, run_cost=9.0)
    run(optimizer, problem, range(1), full=True)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    run(optimizer, problem, range(1, 3), full=True)
    assert optimizer.report.member == "adam"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


def test_it_pays_off_on_rosenbrock_without_knowing_beforehand() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("auto", objective.model.parameters(), portfolio=["sgd", "adam", "lbfgs"], trial_cost=15.0)
    for _ in range(150):
        optimizer.step(objective)
    assert objective.value() < 1e-12


@pytest.mark.parametrize(("portfolio", "error", "message"), [
    (["adam"], ConfigError, "at least two"),
    (["adam", {"nam": "sgd"}], ConfigError, "must be a name"),
    (["adam", "switch"], CombinationError, "itself a hybrid"),
    (["adam", {"name": "sgd", "options": {"rate": 1}}], ConfigError, "no option 'rate'"),
])  # fmt: skip
def test_what_makes_no_portfolio(portfolio: list[Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ho.create("auto", training().model.parameters(), portfolio=portfolio)
