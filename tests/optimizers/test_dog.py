"""DoG: the paper's formula written out, its average, and its freedom from a scale."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import function, run, training


@pytest.mark.parametrize("gamma", [None, 8.0])
def test_the_formula_of_the_paper(gamma: float | None) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    optimizer = ho.create(
        "dog", problem.model.parameters(), first_distance=1e-2, weight_decay=0.1, averaging=gamma, lr=2.0
    )
    parameters = list(twin.model.parameters())
    x = start = average = torch.cat([p.detach().reshape(-1) for p in parameters])
    distance, squares = 1e-2 * (1 + float(start.norm())), 0.0
    for step in range(10):
        optimizer.step(problem.batch(step))
        g = torch.cat([g.reshape(-1) for g in torch.autograd.grad(twin.batch(step)(), parameters)]) + 0.1 * x
        distance = max(distance, float((x - start).norm()))
        squares += float(g @ g)
        rate = distance / (squares + 1e-8) ** 0.5
        x = x - 2.0 * rate * g
        share = 9.0 / (step + 1 + 8.0)
        average = (1 - share) * average + share * x
        with torch.no_grad():
            for p, part in zip(parameters, x.split([p.numel() for p in parameters]), strict=True):
                p.copy_(part.view_as(p))
        assert optimizer.report.rate == pytest.approx(rate, rel=1e-9)
        torch.testing.assert_close(problem.objective.position(), x, rtol=1e-9, atol=1e-12)
        with optimizer.evaluation():
            shown = average if gamma else x
            torch.testing.assert_close(problem.objective.position(), shown, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_a_rate_for_any_scale_from_the_same_options(scale: float) -> None:
    objective = function(lambda x: ((x / scale - 1) ** 2).sum(), [0.0, 0.0])
    optimizer = ho.create("dog", objective.model.parameters())
    for _ in range(400):
        optimizer.step(objective)
    assert objective.value() < 1e-2


def test_gradients_of_zero_divide_nothing() -> None:
    objective = function(lambda x: (0 * x).sum(), [1.0, 2.0])
    optimizer = ho.create("dog", objective.model.parameters(), eps=0.0)
    for _ in range(3):
        optimizer.step(objective)
    assert objective.position().tolist() == [1.0, 2.0]


def test_a_group_with_rate_zero_does_not_count() -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    groups = [{"params": problem.model[0].parameters(), "lr": 0.0}, {"params": problem.model[2].parameters()}]
    optimizer = ho.create("dog", groups, first_distance=1e-2)
    alone = ho.create("dog", twin.model[2].parameters(), first_distance=1e-2)
    assert run(optimizer, problem, range(8)) == run(alone, twin, range(8))
