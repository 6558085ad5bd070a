"""Sophia: sign descent where all is clipped, the algorithm written out, a peer, both estimators, and their costs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from tests.optimizers.catalogue import quadratic, training
from tests.optimizers.structured_cases import assert_same_path, gradient_of, peer_trajectory, trajectory
from tests.optimizers.test_adahessian import START, curvatures_at, separable


def test_clipped_everywhere_it_is_sign_descent() -> None:
    path = [START, *trajectory("sophia", separable, START, 5, lr=0.01, gamma=1e-9, weight_decay=0.0)]
    mean = torch.zeros(4, dtype=torch.float64)
    for before, after in itertools.pairwise(path):
        mean = 0.96 * mean + 0.04 * gradient_of(separable, before)
        torch.testing.assert_close(after, before - 0.01 * mean.sign(), rtol=1e-12, atol=1e-14)


def test_where_the_curvature_is_negative_the_step_is_the_sign() -> None:
    options = {"lr": 0.1, "gamma": 1.0, "betas": [0.0, 0.0], "weight_decay": 0.0, "probes": "rademacher"}
    (end,) = trajectory("sophia", lambda x: x[0] ** 2 - x[1] ** 2, START[:2], 1, **options)
    torch.testing.assert_close(end, START[:2] - 0.1 * torch.tensor([1.0, 1.0]).double(), rtol=1e-12, atol=1e-12)
    # In a convex entry that is not clipped it is Newton's, over gamma.
    (end,) = trajectory("sophia", lambda x: 50 * x[0] ** 2 - x[1] ** 2, START[:2] * 0.1, 1, **{**options, "gamma": 2.0})
    torch.testing.assert_close(end[0], torch.tensor(0.1 - 0.1 * 0.05, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_algorithm_written_out_with_its_own_probes() -> None:
    matrix, vector = quadratic(4)

    def formula(x: Tensor) -> Tensor:
        return x @ matrix @ x / 2 - vector @ x + (x**4).sum() / 12

    options: dict[str, Any] = {"lr": 0.1, "gamma": 0.5, "weight_decay": 0.2, "clip": 0.8}
    path = trajectory("sophia", formula, START, 7, every=3, samples=2, seed=5, **options)
    generator = torch.Generator().manual_seed(5)
    x, mean, curvature = START, torch.zeros(4), torch.zeros(4)
    for step, found in enumerate(path):
        hessian = matrix + torch.diag(x**2)
        if step % 3 == 0:
            draws = [torch.randn(4, generator=generator).double() for _ in range(2)]
            curvature = 0.99 * curvature + 0.01 * sum(u * (hessian @ u) for u in draws) / 2
        mean = 0.96 * mean + 0.04 * gradient_of(formula, x)
        x = x * (1 - 0.1 * 0.2) - 0.1 * (mean / (0.5 * curvature).clamp(min=1e-12)).clamp(-0.8, 0.8)
        torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-11)


def test_the_same_path_as_a_peer_that_is_given_the_diagonal() -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    theirs = peer_trajectory(
        lambda params: peers.SophiaH(params, lr=0.1, betas=(0.9, 0.9), p=0.5, weight_decay=0.1),
        separable,
        START,
        6,
        hessian=lambda x: [curvatures_at(x)],
    )
    options = {"lr": 0.1, "betas": [0.9, 0.9], "clip": 0.5, "gamma": 1.0, "weight_decay": 0.1}
    found = trajectory("sophia", separable, START, 6, every=1, probes="rademacher", **options)
    assert_same_path(found, theirs, rtol=1e-9)


LOSSES = {
    "cross_entropy": (nn.functional.cross_entropy, torch.tensor([0, 2, 1, 2, 0])),
    "squared_error": (nn.functional.mse_loss, torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gauss_newton_bartlett_is_the_gauss_newton_diagonal_on_average(loss: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    loss_fn, targets = LOSSES[loss]
    objective = ho.Objective(model, loss_fn, torch.randn(5, 4, dtype=torch.float64), targets)
    draws = 3000
    optimizer = ho.create("sophia", model.parameters(), estimator="gauss_newton_bartlett", samples=draws)
    with objective.at() as point:
        gauss_newton = point.gauss_newton()
        exact = (gauss_newton @ torch.eye(objective.space.n, dtype=torch.float64)).diagonal()
        estimate = optimizer.diagonal(point, torch.Generator().manual_seed(0))
    # A mean of squares of variance up to a few times their squared mean.
    assert float((estimate - exact).norm()) < 5 * float(exact.norm()) / draws**0.5
    assert objective.ledger.counts["gradient"] == 1 + draws
    assert objective.ledger.counts["hvp"] == 0


@pytest.mark.parametrize(("estimator", "kind"), [("hutchinson", "hvp"), ("gauss_newton_bartlett", "gradient")])
def test_estimates_are_in_the_ledger_where_they_were_due(estimator: str, kind: str) -> None:
    problem = training()
    optimizer = ho.create("sophia", problem.model.parameters(), every=3, samples=2, estimator=estimator)
    refreshed, clipped = [], []
    for step in range(7):
        optimizer.step(problem.batch(step))
        refreshed.append(optimizer.report.refreshed)
        clipped.append("clipped" in optimizer.report)
    assert refreshed == clipped == [True, False, False, True, False, False, True]
    wanted = {"forward": 0, "gradient": 7, "hvp": 0, "ggnvp": 0}
    wanted[kind] += 6
    assert problem.objective.ledger.counts == wanted
    assert 0.0 <= optimizer.report.clipped <= 1.0


def test_the_share_that_is_clipped() -> None:
    objective = ho.Objective.from_function(lambda x: (x**2).sum() / 2, torch.tensor([4.0, 2.0, 0.5, 0.25]))
    options = {"betas": [0.0, 0.0], "gamma": 1.0, "clip": 1.0, "probes": "rademacher"}
    optimizer = ho.create("sophia", objective.model.parameters(), **options)
    optimizer.step(objective)
    assert optimizer.report.clipped == 0.5


def test_targets_cannot_be_drawn_for_a_loss_that_is_no_likelihood() -> None:
    problem = training()
    objective = ho.Objective(problem.model, lambda z, t: (z**4).mean(), problem.inputs, problem.targets)
    optimizer = ho.create("sophia", problem.model.parameters(), estimator="gauss_newton_bartlett")
    with pytest.raises(CombinationError, match="No likelihood is known for this loss"):
        optimizer.step(objective)


def test_both_estimators_lower_the_loss() -> None:
    for estimator in ("hutchinson", "gauss_newton_bartlett"):
        problem = training()
        optimizer = ho.create("sophia", problem.model.parameters(), estimator=estimator, lr=0.02, every=2)
        losses = [float(optimizer.step(problem.objective)) for _ in range(20)]
        assert losses[-1] < 0.9 * losses[0]


def test_the_decays_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"Sophia\.betas must be two numbers"):
        ho.create("sophia", [nn.Parameter(torch.ones(2))], betas=[1.0, 0.99])
