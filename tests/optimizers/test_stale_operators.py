"""A curvature operator that was built before a step refuses to work after it, whichever optimizer stepped."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from hybridopt.core import StaleOperatorError
from tests.optimizers.catalogue import FUSED, METHODS, Method, each, run, training


@each(METHODS)
def test_after_one_step(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    run(optimizer, problem, range(1), full=True)  # the first steps of some methods may be rejected
    operator = ho.curvature.Hessian(problem.objective)
    vector = torch.ones(problem.objective.space.n, dtype=torch.float64)
    _ = operator @ vector
    before = problem.objective.position()
    run(optimizer, problem, range(1), full=True)
    assert not torch.equal(problem.objective.position(), before)
    with pytest.raises(StaleOperatorError, match="have moved since this operator was built"):
        _ = operator @ vector
    _ = ho.curvature.Hessian(problem.objective) @ vector


@each(FUSED)
def test_after_a_fused_step_whose_kernels_write_behind_autograds_back(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), fused=True)
    operator = ho.curvature.Hessian(problem.objective)
    run(optimizer, problem, range(1))
    with pytest.raises(StaleOperatorError):
        _ = operator @ torch.ones(problem.objective.space.n)


@each(METHODS)
def test_a_graph_of_the_user_does_not_survive_a_step_silently(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    loss = problem.objective()
    run(optimizer, problem, range(1), full=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
