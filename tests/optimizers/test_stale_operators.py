"""A curvature operator that was built before a step refuses to work after it, whichever optimizer stepped."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
from hybridopt.core import StaleOperatorError
from tests.optimizers.catalogue import FUSED, Method, each, run, training


@each(FUSED)
def test_after_a_fused_step_whose_kernels_write_behind_autograds_back(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), fused=True)
    operator = ho.curvature.Hessian(problem.objective)
    run(optimizer, problem, range(1))
    with pytest.raises(StaleOperatorError):
        _ = operator @ torch.ones(problem.objective.space.n)
