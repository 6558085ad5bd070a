"""L-BFGS as an optimizer: its trajectory, its bill, and what it does when things go wrong."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import function, rosenbrock, run, training


def iterate(objective: ho.Objective, optimizer: Any, steps: int) -> list[float]:
    return [float(optimizer.step(objective)) for _ in range(steps)]


def test_it_finds_the_minimum_of_rosenbrock_about_as_fast_as_scipy() -> None:
    for start in ([-1.2, 1.0], [-1.2, 1.0, 0.5, -0.7, 2.0], [30.0, -20.0]):
        objective = function(rosenbrock, start)
        optimizer = ho.create("lbfgs", objective.model.parameters())
        losses = []
        while not losses or losses[-1] > 1e-16:
            losses += iterate(objective, optimizer, 1)
            assert len(losses) < 400
        peer = scipy.optimize.minimize(
            lambda x: float(rosenbrock(torch.from_numpy(x))),
            np.array(start),
            jac=lambda x: _gradient(x),
            method="L-BFGS-B",
            options={"ftol": 0, "gtol": 1e-8, "maxiter": 1000},
        )
        assert peer.fun < 1e-14
        assert objective.ledger.counts["gradient"] < 2 * peer.nfev + 10, (objective.ledger, peer.nfev)


def _gradient(x: np.ndarray) -> np.ndarray:
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    return torch.autograd.grad(rosenbrock(leaf), leaf)[0].numpy()


def test_the_losses_never_rise_on_one_batch() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 3.0])
    losses = iterate(objective, ho.create("lbfgs", objective.model.parameters()), 80)
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 1e-16


def test_it_begins_as_torchs_lbfgs_and_gets_as_far() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters(), history=10)
    bare = torch.optim.LBFGS(
        twin.model.parameters(), max_iter=1, max_eval=26, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        bare.zero_grad()
        loss = twin.objective()
        loss.backward()
        return loss

    ours = run(optimizer, problem, range(25), full=True)
    theirs = [bare.step(closure).item() for _ in range(25)]
    # The first direction and first trial are the same; the searches then interpolate differently.
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-6)
    assert problem.objective.value() < 1.5 * twin.objective.value() + 1e-3


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "ssbroyden", "sr1", "lsr1"])
def test_a_step_on_the_same_batch_costs_one_gradient_a_trial(name: str) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create(name, problem.model.parameters())
    trials = 0
    for _ in range(10):
        optimizer.step(problem.objective)
        trials += optimizer.report.evaluations
    assert problem.objective.ledger.counts == {"forward": 0, "gradient": 1 + trials, "hvp": 0, "ggnvp": 0}
    assert trials < 20, "about one trial a step is usual"


@pytest.mark.parametrize(
    ("line_search", "extra"), [("armijo", {"forward": 1, "gradient": 1}), ("none", {"forward": 0, "gradient": 1})]
)
def test_the_other_searches_cost_one_gradient_a_step_too(line_search: str, extra: dict[str, int]) -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters(), line_search=line_search, lr=0.5)
    optimizer.step(problem.objective)
    before = problem.objective.ledger.counts
    optimizer.step(problem.objective)
    after = problem.objective.ledger.counts
    trials = optimizer.report.evaluations
    assert after["gradient"] - before["gradient"] == extra["gradient"]
    assert after["forward"] - before["forward"] == extra["forward"] * trials


@pytest.mark.parametrize("model", ["dropout", "batch_norm", "both"])
def test_the_gradient_of_a_trial_is_not_reused_where_the_function_changes(model: str) -> None:
    problem = training(model, dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters())
    for count in range(1, 5):
        before = problem.objective.ledger.counts["gradient"]
        optimizer.step(problem.objective)
        spent = problem.objective.ledger.counts["gradient"] - before
        assert spent == 1 + optimizer.report.evaluations, f"step {count}"


def test_the_gradient_of_a_trial_is_not_reused_on_another_batch_or_after_a_move_from_outside() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters())

    def spent(objective: ho.Objective) -> int:
        before = objective.ledger.counts["gradient"]
        optimizer.step(objective)
        return objective.ledger.counts["gradient"] - before - optimizer.report.evaluations

    assert spent(problem.batch(0)) == 1
    assert spent(problem.batch(0)) == 0
    assert spent(problem.batch(1)) == 1
    with torch.no_grad():
        problem.model[0].weight.add_(0.1)
    assert spent(problem.batch(1)) == 1
    assert spent(problem.batch(1)) == 0


def test_both_gradients_of_a_pair_come_from_one_batch() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters())
    for step in range(3):
        objective = problem.batch(step)
        x = objective.position()
        before = objective.value_and_grad()[1]
        optimizer.step(objective)
        after = objective.value_and_grad()[1]
        pairs = optimizer.memory["pairs"]
        newest = (pairs["head"] - 1) % len(pairs["curvatures"])
        torch.testing.assert_close(pairs["steps"][newest], objective.position() - x, rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(pairs["changes"][newest], after - before, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("pairs", ["skip", "damp"])
def test_pairs_of_negative_curvature_are_counted(pairs: str) -> None:
    # Concave where it starts: with a search for decrease alone, the first pairs have s'y < 0.
    objective = function(lambda x: x.cos().sum(), [0.3, -0.2])
    optimizer = ho.create("lbfgs", objective.model.parameters(), line_search="armijo", pairs=pairs, lr=0.1)
    iterate(objective, optimizer, 60)
    report = optimizer.report
    assert (report.skipped_pairs if pairs == "skip" else report.damped_pairs) > 0
    assert objective.value() == pytest.approx(-2.0, abs=1e-3)


def test_a_failed_search_clears_the_memory_and_the_next_step_goes_on() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("lbfgs", objective.model.parameters())
    iterate(objective, optimizer, 4)
    stored = optimizer.memory["pairs"]
    assert stored["count"] > 0
    # Make the memory promise far too much: the only trial overshoots.
    stored["gamma"] = 1e12
    optimizer.config.max_evaluations = 1
    before = objective.position()
    optimizer.step(objective)
    assert not optimizer.report.accepted
    assert torch.equal(objective.position(), before)
    assert {"event": "memory_reset", "reason": "line search failed"} in optimizer.report.events
    assert stored["count"] == 0
    value = objective.value()
    optimizer.config.max_evaluations = 25
    iterate(objective, optimizer, 5)
    assert objective.value() < value


def test_a_direction_that_ascends_is_replaced_by_the_gradient() -> None:
    objective = function(rosenbrock, [-1.2, 1.0])
    optimizer = ho.create("lbfgs", objective.model.parameters())
    iterate(objective, optimizer, 3)
    optimizer.memory["pairs"].update(count=0, gamma=-1.0)
    before = objective.value()
    optimizer.step(objective)
    assert {"event": "memory_reset", "reason": "no descent direction"} in optimizer.report.events
    assert objective.value() < before


def test_the_memory_survives_mini_batches() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("lbfgs", problem.model.parameters(), history=4)
    start = problem.objective.value()
    run(optimizer, problem, range(30))
    assert len(optimizer.memory["pairs"]["curvatures"]) == 4
    assert math.isfinite(problem.objective.value())
    assert problem.objective.value() < start


def test_a_history_longer_than_the_run_and_shorter_than_it_both_converge() -> None:
    for history in (1, 3, 50):
        objective = function(lambda x: (torch.arange(1, 9) * x**2).sum() + x.sum() ** 4, torch.ones(8).tolist())
        iterate(objective, ho.create("lbfgs", objective.model.parameters(), history=history), 60)
        assert float(objective.value_and_grad()[1].abs().max()) < 1e-6
