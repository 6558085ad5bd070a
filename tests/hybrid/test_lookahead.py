"""Lookahead: the paper's algorithm around any optimizer, what is evaluated, and what the inner one is told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from tests.optimizers.catalogue import Training, assert_same_state, function, run, training


def written_out(twin: Training, inner: Any, steps: int, period: int, alpha: float) -> tuple[list[float], list[Any]]:
    """Algorithm 1 of the paper with our own inner optimizer; returns losses and the last slow weights."""
    slow = twin.parameters()
    losses = []
    for step in range(steps):
        losses.append(float(inner.step(twin.batch(step))))
        if (step + 1) % period == 0:
            slow = [s + alpha * (p.detach() - s) for s, p in zip(slow, twin.model.parameters(), strict=True)]
            with torch.no_grad():
                for s, p in zip(slow, twin.model.parameters(), strict=True):
                    p.copy_(s)
    return losses, slow


@pytest.mark.parametrize(
    ("inner", "options"), [("sgd", {"lr": 0.5}), ("momentum", {"lr": 0.1}), ("adam", {"lr": 0.05}), ("lion", {})]
)
@pytest.mark.parametrize(("period", "alpha"), [(3, 0.5), (1, 0.3), (2, 1.0)])
def test_the_algorithm_of_the_paper(inner: str, options: dict[str, Any], period: int, alpha: float) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create(
        "lookahead", problem.model.parameters(), inner=inner, inner_options=options, period=period, alpha=alpha
    )
    losses = run(optimizer, problem, range(8))
    wanted, slow = written_out(twin, ho.create(inner, twin.model.parameters(), **options), 8, period, alpha)
    assert losses == pytest.approx(wanted, rel=1e-12)
    with optimizer.evaluation():
        for mine, other in zip(problem.model.parameters(), slow, strict=True):
            torch.testing.assert_close(mine.detach(), other, rtol=1e-12, atol=1e-14)
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_the_same_as_another_implementation() -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    problem, twin = training(), training()
    optimizer = ho.create("lookahead", problem.model.parameters(), inner_options={"lr": 0.05}, period=3, alpha=0.4)
    bare = peer.Lookahead(torch.optim.Adam(twin.model.parameters(), lr=0.05), k=3, alpha=0.4, pullback_momentum="none")
    for step in range(8):
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inner", ["lbfgs", "newton_cg", "trust_newton_cg", "sls", "torch:NAdam", "prodigy"])
def test_any_plain_optimizer_can_be_inside(inner: str) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lookahead", problem.model.parameters(), inner=inner, period=2)
    losses = run(optimizer, problem, range(8), full=True)
    assert problem.objective.value() < losses[0]
    assert optimizer.report.member == inner
    assert optimizer.report.synchronised is True


def test_lbfgs_takes_its_gradient_where_it_was_put() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lookahead", problem.model.parameters(), inner="lbfgs", period=1, alpha=0.5)
    for _ in range(4):
        value = problem.objective.value()
        assert float(optimizer.step(problem.objective)) == pytest.approx(value, rel=1e-12)


def test_the_inner_optimizer_is_told_that_it_was_moved() -> None:
    problem = training()
    learning = {"lr": 0.1, "hypergradient": 1e-3}
    optimizer = ho.create("lookahead", problem.model.parameters(), inner="sgd", inner_options=learning, period=2)
    found = []
    for step in range(4):
        optimizer.step(problem.batch(step))
        found.append(any("direction" in state for state in optimizer.state.values()))
    assert found == [True, False, True, False]


def test_a_jump_starts_the_slow_weights_anew() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lookahead", problem.model.parameters(), period=3)
    run(optimizer, problem, range(2))
    bound = problem.objective.bind(optimizer.param_groups)
    bound.commit(bound.position() + 1.0)
    optimizer.moved(bound, "escape")
    here = bound.position()
    with optimizer.evaluation():
        assert torch.equal(bound.position(), here)
    run(optimizer, problem, range(2))
    assert optimizer.report.synchronised is False  # the period begins anew too


def test_the_inner_state_is_kept_or_reset() -> None:
    for how, momentum in (("keep", True), ("reset", False)):
        problem = training()
        optimizer = ho.create(
            "lookahead",
            problem.model.parameters(),
            inner="momentum",
            period=2,
            inner_state=how,
            inner_options={"lr": 1},
        )
        run(optimizer, problem, range(2))
        assert any(not isinstance(key, str) for key in optimizer.state) == momentum
        run(optimizer, problem, range(2, 5))


def test_an_evaluation_changes_nothing_and_a_step_inside_it_is_refused() -> None:
    traces = []
    for look in (False, True):
        problem = training("both")
        optimizer = ho.create("lookahead", problem.model.parameters(), period=3, inner_options={"lr": 0.05})
        trace = []
        for step in range(7):
            torch.manual_seed(step)
            trace.append(float(optimizer.step(problem.batch(step))))
            if look:
                before = problem.parameters()
                with optimizer.evaluation(), optimizer.evaluation():
                    if step % 3 != 2:
                        assert not torch.equal(problem.model[0].weight, before[0])
                    with pytest.raises(ObjectiveError, match="slow weights"):
                        optimizer.step(problem.batch(step))
                assert all(torch.equal(a, b) for a, b in zip(problem.model.parameters(), before, strict=True))
        traces.append(trace)
    assert traces[0] == traces[1]


def test_groups_with_rate_zero_and_frozen_parameters_stand_still_at_a_synchronisation() -> None:
    problem = training(dtype=torch.float64)
    groups = [{"params": problem.model[0].parameters()}, {"params": problem.model[2].parameters()}]
    optimizer = ho.create("lookahead", groups, period=3, inner_options={"lr": 0.1})
    run(optimizer, problem, range(2))
    optimizer.param_groups[0]["lr"] = 0.0
    problem.model[2].bias.requires_grad_(False)
    before = problem.parameters()
    run(optimizer, problem, range(2, 3))
    assert optimizer.report.synchronised
    after = problem.parameters()
    assert [torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [True, True, False, True]


def test_an_escape_starts_the_slow_weights_anew() -> None:
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2, [0.0, 0.0])
    optimizer = ho.create(
        "lookahead",
        objective.model.parameters(),
        inner="sgd",
        inner_options={"lr": 0.1},
        escape={"name": "negative_curvature", "window": 8},
    )
    events = []
    for _ in range(120):
        optimizer.step(objective)
        events += [event["event"] for event in optimizer.report.events]
    assert "escaped" in events
    assert objective.value() == pytest.approx(-0.5, abs=1e-6)
    with optimizer.evaluation():
        assert objective.value() == pytest.approx(-0.5, abs=1e-6)


def test_groups_and_state_are_shared_also_after_a_load_and_a_copy() -> None:
    problem = training()
    optimizer = ho.create("lookahead", problem.model.parameters(), period=3)
    run(optimizer, problem, range(4))
    model, twin = copy.deepcopy((problem.model, optimizer))
    other = ho.create("lookahead", model.parameters(), period=3)
    other.load_state_dict(optimizer.state_dict())
    for hybrid in (optimizer, twin, other):
        assert hybrid.active.param_groups is hybrid.param_groups
        assert hybrid.active.state is hybrid.state
        assert_same_state(hybrid.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("inner", ["schedule_free", "switch", "swats", "lookahead"])
def test_what_cannot_be_inside(inner: str) -> None:
    with pytest.raises(CombinationError, match=r"averages parameters itself|is itself a hybrid"):
        ho.create("lookahead", [torch.nn.Parameter(torch.ones(2))], inner=inner)


def test_dog_can_be_inside_unless_it_averages() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    ho.create("lookahead", parameters, inner="dog")
    with pytest.raises(CombinationError, match="average twice"):
        ho.create("lookahead", parameters, inner="dog", inner_options={"averaging": 8.0})


def test_a_group_cannot_be_added_later() -> None:
    problem = training()
    optimizer = ho.create("lookahead", problem.model[0].parameters())
    with pytest.raises(ConfigError, match="give all groups at once"):
        optimizer.add_param_group({"params": problem.model[2].parameters()})
