"""Lion against the paper's algorithm written out, and against another implementation."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import run, training

STEPS = 6


def test_the_algorithm_of_the_paper() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("lion", problem.model.parameters(), lr=0.01, betas=[0.8, 0.95], weight_decay=0.3)
    parameters = list(twin.model.parameters())
    momenta = [torch.zeros_like(p) for p in parameters]
    for step in range(STEPS):
        optimizer.step(problem.batch(step))
        gradients = torch.autograd.grad(twin.batch(step)(), parameters)
        with torch.no_grad():
            for p, m, g in zip(parameters, momenta, gradients, strict=True):
                p.sub_(0.01 * ((0.8 * m + 0.2 * g).sign() + 0.3 * p))
                m.mul_(0.95).add_(0.05 * g)
    for mine, other in zip(problem.model.parameters(), parameters, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_same_as_another_implementation(decay: float) -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    problem, twin = training("both"), training("both")
    optimizer = ho.create("lion", problem.model.parameters(), lr=0.01, weight_decay=decay)
    bare = peer.Lion(twin.model.parameters(), lr=0.01, weight_decay=decay, betas=(0.9, 0.99), weight_decouple=True)
    for step in range(STEPS):
        torch.manual_seed(step)
        optimizer.step(problem.batch(step))
        torch.manual_seed(step)
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_clipping_and_groups() -> None:
    problem, twin = training(), training()
    groups = [{"params": problem.model[0].parameters(), "lr": 0.0}, {"params": problem.model[2].parameters()}]
    optimizer = ho.create("lion", groups, lr=0.01, clip_norm=0.01)
    run(optimizer, problem, range(3))
    assert torch.equal(problem.model[0].weight, twin.model[0].weight)
    assert float(optimizer.report.grad_norm) == pytest.approx(0.01, rel=1e-3)
    assert float((problem.model[2].weight - twin.model[2].weight).abs().max()) <= 0.03 + 1e-6


@pytest.mark.parametrize("betas", [[0.9], [0.9, 1.0], [-0.1, 0.9]])
def test_betas_that_are_none(betas: list[float]) -> None:
    with pytest.raises(ConfigError, match="betas"):
        ho.create("lion", [torch.nn.Parameter(torch.ones(1))], betas=betas)


def test_a_gradient_of_zero_moves_nothing() -> None:
    objective = ho.Objective.from_function(lambda x: (0 * x).sum(), torch.ones(3))
    optimizer = ho.create("lion", objective.model.parameters())
    optimizer.step(objective)
    assert torch.equal(objective.position(), torch.ones(3))
