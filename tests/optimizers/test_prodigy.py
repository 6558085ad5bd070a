"""Prodigy: the paper's formulas written out, another implementation, and the estimate it lives from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import function, run, training

STEPS = 12


def test_the_algorithm_of_the_paper() -> None:
    # Algorithm 4 with the decay of both sums by sqrt(beta2), over all parameters as one vector.
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create("prodigy", problem.model.parameters(), d0=1e-3, weight_decay=0.01)
    parameters = list(twin.model.parameters())

    def flat() -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in parameters])

    start, d, b1, b2 = flat(), 1e-3, 0.9, 0.999
    m, v, s = (torch.zeros_like(start) for _ in range(3))
    r = 0.0
    for step in range(STEPS):
        optimizer.step(problem.batch(step))
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(twin.batch(step)(), parameters)])
        x = flat()
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        r = math.sqrt(b2) * r + d**2 / 1e-3 * float(g @ (start - x))
        s = math.sqrt(b2) * s + d**2 / 1e-3 * g
        x = x - d * 0.01 * x - d * m / (v.sqrt() + d * 1e-8)
        d = max(d, r / float(s.abs().sum()))
        with torch.no_grad():
            for p, part in zip(parameters, x.split([p.numel() for p in parameters]), strict=True):
                p.copy_(part.view_as(p))
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-9, atol=1e-12)
        assert optimizer.report.distance == pytest.approx(d, rel=1e-9)
    assert d > 2e-3


@pytest.mark.parametrize(
    "options",
    [{}, {"safeguard_warmup": True, "lr": 0.5}, {"bias_correction": True}, {"weight_decay": 0.1}, {"lr": 0.5}],
    ids=str,
)
def test_the_same_as_another_implementation(options: dict[str, Any]) -> None:
    peer = pytest.importorskip("pytorch_optimizer")
    problem, twin = training(), training()
    options = {"weight_decay": 0.0, "lr": 1.0, **options}
    optimizer = ho.create("prodigy", problem.model.parameters(), d0=1e-3, growth=1.5, **options)
    bare = peer.Prodigy(
        twin.model.parameters(), d0=1e-3, growth_rate=1.5, weight_decouple=True, betas=(0.9, 0.999), **options
    )
    for step in range(STEPS):
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    assert optimizer.report.distance == pytest.approx(float(bare.param_groups[0]["d"]), rel=1e-4)
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_a_rate_for_any_scale_from_the_same_options(scale: float) -> None:
    objective = function(lambda x: (x - scale).abs().sum(), [0.0, 0.0])
    optimizer = ho.create("prodigy", objective.model.parameters())
    for _ in range(400):
        optimizer.step(objective)
    assert objective.value() < 0.5 * scale  # from 2 * scale
    # A lower bound of the distance (in the max-norm), up to a factor that the method does not promise.
    assert optimizer.report.distance < 4 * scale


def test_a_gradient_of_zero_keeps_the_estimate() -> None:
    objective = function(lambda x: (0 * x).sum(), [1.0, 2.0])
    optimizer = ho.create("prodigy", objective.model.parameters())
    for _ in range(3):
        optimizer.step(objective)
    assert optimizer.report.distance == pytest.approx(1e-6)
    assert objective.position().tolist() == [1.0, 2.0]


def test_a_group_with_rate_zero_does_not_count() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    groups = [{"params": problem.model[0].parameters(), "lr": 0.0}, {"params": problem.model[2].parameters()}]
    optimizer = ho.create("prodigy", groups, d0=1e-3)
    alone = ho.create("prodigy", twin.model[2].parameters(), d0=1e-3)
    assert run(optimizer, problem, range(STEPS)) == run(alone, twin, range(STEPS))
    assert optimizer.report.distance == alone.report.distance


def test_a_jump_starts_the_measurement_anew_and_keeps_the_estimate() -> None:
    problem = training(dtype=torch.float64)
    optimizer = ho.create("prodigy", problem.model.parameters(), d0=1e-3)
    run(optimizer, problem, range(STEPS))
    distance = optimizer.report.distance
    bound = problem.objective.bind(optimizer.param_groups)
    bound.commit(bound.position() + 1000.0)
    optimizer.moved(bound, "escape")
    optimizer.step(problem.batch(0))
    assert optimizer.report.distance == pytest.approx(distance)
    assert float(optimizer.memory["numerator"]) == 0.0  # nothing was gained from the new start yet


def test_options_that_are_refused() -> None:
    parameters = [torch.nn.Parameter(torch.ones(1))]
    for options in ({"d0": 0.0}, {"growth": 1.0}, {"betas": [0.9]}):
        with pytest.raises(ConfigError):
            ho.create("prodigy", parameters, **options)
    with pytest.raises(ConfigError, match="no option 'd0' for a param group"):
        ho.create("prodigy", [{"params": parameters, "d0": 1.0}])
