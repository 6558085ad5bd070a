"""An escape is a transaction: kept only if the function is lower, or else as if it had never been."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError
from hybridopt.escape import Escape, Proposal
from tests.optimizers.catalogue import METHODS, Method, assert_same_state, each, function, names, saddle, training


class Scripted(Escape):
    """Jumps where it is told to; one entry an attempt."""

    def __init__(self, jumps: list[list[float]], **options: Any) -> None:
        super().__init__(**options)
        self.jumps = jumps

    def propose(self, optimizer: Any, objective: Any, attempt: int, random: torch.Generator) -> Proposal:
        jump = torch.tensor(self.jumps[attempt], dtype=objective.space.dtype)
        return Proposal(jump.expand(objective.space.n) if jump.numel() == 1 else jump)


UP, DOWN = [1.0, 0.0], [0.0, 0.5]  # from the saddle of x^2 - y^2 + y^4 / 2


def at_the_saddle(name: str, escape: Escape, **options: Any) -> tuple[ho.Objective, Any]:
    objective = function(saddle, [0.0, 0.0])
    return objective, ho.create(name, objective.model.parameters(), escape=escape, **options)


def names_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


def test_a_jump_that_ends_lower_is_kept_and_says_by_how_much() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([DOWN], window=5), lr=0.0)
    history = []
    for _ in range(7):
        optimizer.step(objective)
        history.append(optimizer.report.events)
    assert [names_of(events) for events in history] == [[], ["stall", "escape_jump"], [], [], [], [], ["escaped"]]
    assert history[1][1]["jump_norm"] == 0.5
    assert history[6][0]["gain"] == pytest.approx(0.25 - 0.5**4 / 2)
    assert objective.position().tolist() == DOWN
    assert optimizer.state["escape"]["escapes"] == 1


def test_a_jump_that_is_not_finite_is_none_at_all() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([[math.nan, 0.0], DOWN], window=2), lr=0.0)
    optimizer.step(objective)
    optimizer.step(objective)
    assert names_of(optimizer.report.events) == ["stall", "no_escape"]
    assert objective.position().tolist() == [0.0, 0.0]


def test_a_jump_that_ends_higher_is_undone_and_the_next_direction_tried() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([UP, UP, DOWN], window=2, tries=3), lr=0.0)
    found = []
    for _ in range(9):
        optimizer.step(objective)
        found += optimizer.report.events
    undone = ["escape_jump", "escape_undone"]
    assert names_of(found)[:7] == ["stall", *undone, *undone, "escape_jump", "escaped"]
    assert [event["attempt"] for event in found if event["event"] == "escape_jump"] == [0, 1, 2]
    assert objective.position().tolist() == DOWN


def test_after_the_last_try_everything_is_back_and_the_escape_waits() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([UP, UP], window=2, tries=2), lr=0.0)
    for _ in range(6):
        optimizer.step(objective)
    assert names_of(optimizer.report.events) == ["escape_undone"]
    assert objective.position().tolist() == [0.0, 0.0]
    assert optimizer.escape.settled(optimizer)
    memory = optimizer.state["escape"]
    assert memory["wait"] == 15
    assert memory["pause"] == 30
    assert memory["snapshot"] is None


def test_every_jump_starts_from_the_snapshot() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([[1.0, 0.2], [2.0, 0.3]], window=1, tries=2), lr=0.0)
    places = []
    for _ in range(4):
        optimizer.step(objective)
        places.append(objective.position().tolist())
    assert places == [[0.0, 0.0], [1.0, 0.2], [2.0, 0.3], [0.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_jump_into_a_function_that_is_not_finite_is_undone(bad: float) -> None:
    objective = function(lambda x: saddle(x) + torch.where(x[0] > 0.5, bad, 0.0), [0.0, 0.0])
    escape = Scripted([UP, DOWN], window=2, tries=2)
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    found = []
    for _ in range(6):
        optimizer.step(objective)
        found += names_of(optimizer.report.events)
    assert found == ["stall", "escape_jump", "escape_undone", "escape_jump", "escaped"]


def test_a_decrease_within_rounding_is_none() -> None:
    objective = function(lambda x: 1e6 + 1e-10 * saddle(x), [0.0, 0.0])
    escape = Scripted([DOWN], window=1, tries=1)
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    found = []
    for _ in range(6):  # four windows, as it cannot be said
        optimizer.step(objective)
        found += names_of(optimizer.report.events)
    assert found[-1] == "escape_undone"


# Those whose memory is not reset when they are told that they were moved.
EXACT = names("sgd", "momentum", "adagrad", "adam", "adamw", "lbfgs", "torch:AdamW", "adam_lbfgs")


@each(EXACT)
def test_an_undone_jump_restores_parameters_and_state_to_the_last_bit(method: Method) -> None:
    problem = training(dtype=torch.float64)
    escape = Scripted([[300.0]], stall_window=3, stall_tolerance=10.0, window=4, tries=1)
    options = {"at_step": 50} if method.name == "adam_lbfgs" else {}
    optimizer = method.create(problem.model.parameters(), escape=escape, **options)
    saved = None
    for step in range(200):
        optimizer.step(problem.batch(step))
        found = names_of(optimizer.report.events)
        state = {key: value for key, value in optimizer.state_dict()["state"].items() if key != "escape"}
        if "escape_jump" in found:
            snapshot = optimizer.state["escape"]["snapshot"]
            saved = (
                snapshot["position"].clone(),
                {int(key[1:]) if key.startswith("#") else key: value for key, value in snapshot["state"].items()},
            )
        if "escape_undone" in found:
            break
    assert saved is not None
    assert "escape_undone" in found
    assert torch.equal(problem.objective.position(), saved[0])
    if "memory" in state:
        state["memory"] = {**state["memory"], "end": saved[1]["memory"]["end"]}  # dropped: it tells of the last step
    assert_same_state(state, saved[1])


@each(names("trust_newton_cg", "newton_cg", "saddle_free_newton", "hessian_free"))
def test_newton_methods_start_their_radius_and_damping_anew(method: Method) -> None:
    problem = training(dtype=torch.float64)
    escape = Scripted([[0.1]], stall_window=3, stall_tolerance=10.0, window=4, tries=1)
    optimizer = method.create(problem.model.parameters(), escape=escape)
    key = "radius" if method.name == "trust_newton_cg" else "damping"
    for _ in range(20):
        optimizer.memory[key] = 1e-9  # collapsed
        optimizer.step(problem.objective)
        if "escape_jump" in names_of(optimizer.report.events):
            break
    assert optimizer.memory[key] == getattr(optimizer.config, key)


def test_lbfgs_forgets_its_open_pair_and_keeps_the_others() -> None:
    problem = training(dtype=torch.float64)
    escape = Scripted([[0.1]], stall_window=3, stall_tolerance=10.0, window=4, tries=1)
    optimizer = ho.create("lbfgs", problem.model.parameters(), escape=escape)
    count = 0
    for _ in range(20):
        optimizer.step(problem.objective)
        if "escape_jump" in names_of(optimizer.report.events):
            break
        count = optimizer.memory["pairs"]["count"]
    assert optimizer.memory["end"] is None
    assert optimizer.memory["pairs"]["count"] >= count > 0
    x, gradient = problem.objective.position(), problem.objective.value_and_grad()[1]
    optimizer.step(problem.objective)
    pairs = optimizer.memory["pairs"]
    newest = (pairs["head"] - 1) % len(pairs["curvatures"])
    torch.testing.assert_close(pairs["steps"][newest], problem.objective.position() - x)
    after = problem.objective.value_and_grad()[1]
    torch.testing.assert_close(pairs["changes"][newest], after - gradient, rtol=1e-7, atol=1e-10)


@each(METHODS)
def test_every_optimizer_is_told_of_the_jump_and_of_the_restore(method: Method, monkeypatch: Any) -> None:
    problem = training(dtype=torch.float64)
    escape = Scripted([[20.0]], stall_window=2, stall_tolerance=10.0, window=2, tries=1)
    options = {"at_step": 100} if "at_step" in method.options else {}
    optimizer = method.create(problem.model.parameters(), escape=escape, **options)
    told: list[str] = []
    original = optimizer.moved
    monkeypatch.setattr(
        optimizer, "moved", lambda objective, reason: (told.append(reason), original(objective, reason))
    )
    found: list[str] = []
    for step in range(12):
        optimizer.step(problem.batch(step))
        found += names_of(optimizer.report.events)
        assert told.count("escape") == found.count("escape_jump")
        assert told.count("restore") == found.count("escape_undone")
    assert "escape" in told


def test_a_switch_passes_the_message_on_to_its_active_member(monkeypatch: Any) -> None:
    problem = training()
    optimizer = ho.create("adam_lbfgs", problem.model.parameters(), at_step=1)
    told: list[tuple[int, str]] = []
    for index, member in enumerate(optimizer._members):
        monkeypatch.setattr(member, "moved", lambda _, reason, index=index: told.append((index, reason)))
    optimizer.moved(problem.objective, "escape")
    optimizer.step(problem.objective)
    optimizer.moved(problem.objective, "restore")
    assert told == [(0, "escape"), (1, "restore")]


def test_on_mini_batches_the_verdict_is_on_batches_that_the_step_has_not_seen() -> None:
    # Each batch has a minimum of its own far away, so a step on it lowers it from anywhere; together they say that
    # the jump led up.
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    ones = torch.ones(1, 1).double()
    objective = ho.Objective(model, lambda out, target: ((out - target) ** 2).mean(), ones, ones)
    escape = Scripted([[0.5]], stall_window=2, stall_tolerance=10.0, window=6, probes=6, tries=1)
    optimizer = ho.create("sgd", model.parameters(), lr=0.5, escape=escape)
    found = []
    for step in range(60):
        target = torch.full((1, 1), 3.0 if step % 2 else -3.0).double()
        optimizer.step(objective.with_batch(ones, target))  # lr 1/2 solves the batch exactly
        found += names_of(optimizer.report.events)
    assert "escape_jump" in found
    assert "escaped" not in found


def test_on_mini_batches_an_improvement_that_all_see_is_kept() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1, bias=False).double()
    inputs = torch.randn(200, 2).double()
    targets = inputs @ torch.tensor([[2.0], [1.0]]).double() + 0.1 * torch.randn(200, 1).double()
    torch.nn.init.zeros_(model.weight)
    objective = ho.Objective(model, torch.nn.functional.mse_loss, inputs, targets)
    escape = Scripted([[1.5, 1.0]], stall_window=2, stall_tolerance=10.0, window=4, probes=4, tries=1)
    optimizer = ho.create("sgd", model.parameters(), lr=0.0, escape=escape)
    found = []
    for step in range(10):
        rows = slice(20 * (step % 10), 20 * (step % 10) + 20)
        optimizer.step(objective.with_batch(inputs[rows], targets[rows]))
        found += names_of(optimizer.report.events)
    assert found[:3] == ["stall", "escape_jump", "escaped"]


def test_a_window_is_prolonged_while_the_batches_disagree_and_then_undone() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    ones = torch.ones(1, 1).double()
    objective = ho.Objective(model, lambda out, target: (out * target).mean(), ones, ones)
    escape = Scripted([[1.0]], stall_window=2, stall_tolerance=10.0, window=4, probes=4, tries=1)
    optimizer = ho.create("sgd", model.parameters(), lr=0.0, escape=escape)
    jumped = undone = None
    for step in range(40):
        optimizer.step(objective.with_batch(ones, ones * (1.0 if step % 2 else -1.0)))
        found = names_of(optimizer.report.events)
        jumped = step if "escape_jump" in found and jumped is None else jumped
        undone = step if "escape_undone" in found and undone is None else undone
    assert jumped is not None
    assert undone == jumped + 4 * 4


def test_buffers_are_put_back_with_the_parameters() -> None:
    problem = training("batch_norm", dtype=torch.float64)
    escape = Scripted([[300.0]], stall_window=2, stall_tolerance=10.0, window=3, tries=1)
    optimizer = ho.create("sgd", problem.model.parameters(), lr=0.0, escape=escape)
    saved: dict[str, Any] = {}
    for _ in range(60):
        optimizer.step(problem.objective)
        found = names_of(optimizer.report.events)
        if "escape_jump" in found:
            saved = {name: value.clone() for name, value in problem.model.named_buffers()}
        if "escape_undone" in found:
            break
        moved = {name: value.clone() for name, value in problem.model.named_buffers()}
    assert "escape_undone" in found
    assert any(not torch.equal(saved[name], value) for name, value in moved.items())
    for name, value in problem.model.named_buffers():
        assert torch.equal(value, saved[name]), name


def test_parameters_frozen_in_the_window_end_the_transaction() -> None:
    problem = training(dtype=torch.float64)
    escape = Scripted([[0.1]], stall_window=2, stall_tolerance=10.0, window=4, tries=1)
    optimizer = ho.create("newton_cg", problem.model.parameters(), escape=escape)
    found: list[str] = []
    for _ in range(30):
        optimizer.step(problem.objective)
        found += names_of(optimizer.report.events)
        if "escape_jump" in found:
            problem.model[0].weight.requires_grad_(False)
        if "escape_abandoned" in found:
            break
    assert found[-1] == "escape_abandoned"
    assert not optimizer.escape.busy(optimizer)


def test_events_tell_cost_and_gain() -> None:
    objective = function(saddle, [0.0, 0.0])
    escape = {"name": "negative_curvature", "window": 3}
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    found = []
    for _ in range(5):
        optimizer.step(objective)
        found += optimizer.report.events
    _stall, jump, escaped = found
    assert jump["lambda_min"] == escaped["lambda_min"] == pytest.approx(-2.0)
    assert escaped["gain"] == pytest.approx(-objective.value())
    assert escaped["steps"] == 3
    # All that was paid but for the five steps; the last assertion but one paid a value.
    assert escaped["cost"] == pytest.approx(objective.ledger.gradient_equivalents(1) - 5 - 1 / 3)
    assert jump["cost"] == pytest.approx(escaped["cost"] - 2 / 3)


@pytest.mark.parametrize(("answer", "expected"), [
    ("stay", ["stall", "no_escape"]), ("go on", []), ("leave", ["stall", "escape_jump"]),
])  # fmt: skip
def test_a_vanishing_gradient_is_asked_about_first(answer: str, expected: list[str]) -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([DOWN]), lr=0.0)
    optimizer.escape.ask = lambda _: answer
    optimizer.step(objective)
    optimizer.step(objective)
    assert names_of(optimizer.report.events) == expected
    assert optimizer.escape.settled(optimizer) == (answer == "stay")


def test_an_escape_needs_a_method_that_descends() -> None:
    class Raw(ho.Optimizer):
        """Newton's method as it stands: it goes to saddle points, too."""

        @dataclass
        class Config:
            """None."""

        descends = False

        def update(self, objective: ho.Objective) -> None:
            objective.value_and_grad()

    parameters = [torch.nn.Parameter(torch.ones(2))]
    Raw(parameters)
    with pytest.raises(CombinationError, match=r"Raw does not descend.*newton_cg"):
        Raw(parameters, escape="perturbation")


def test_the_escape_pays_for_what_it_evaluates() -> None:
    objective, optimizer = at_the_saddle("sgd", Scripted([DOWN], window=2), lr=0.0)
    for _ in range(4):
        optimizer.step(objective)
    assert names_of(optimizer.report.events) == ["escaped"]
    # One gradient a step, and two values to judge.
    assert objective.ledger.counts == {"forward": 2, "gradient": 4, "hvp": 0, "ggnvp": 0}
