"""The Gauss-Newton matrix of every case equals J' H_L J with an explicit Jacobian."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.core import CombinationError
from hybridopt.curvature import GaussNewton, Hessian
from hybridopt.objective import Objective
from tests.cases import BY_NAME, DTYPES, Case, cases
from tests.curvature.reference import objective_of, probes, reference, relative_error

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@DTYPES
@cases(loss_fn=True)
def test_equals_the_reference(case: Case, dtype: torch.dtype):
    operator = GaussNewton(objective_of(case, dtype))
    vectors = probes(operator)
    wanted = reference(case).gauss_newton @ vectors.double()
    assert relative_error(operator @ vectors, wanted) < TOLERANCE[dtype]


@cases("mlp_tanh", "bce", "cnn_max_pool", "dependent_outputs", "repeated_output")
def test_convex_losses_give_no_negative_eigenvalue(case: Case):
    matrix = GaussNewton(objective_of(case, torch.float64)).dense()
    assert relative_error(matrix, reference(case).gauss_newton) < 1e-12
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-12 * values[-1].abs()


def test_equals_the_hessian_of_a_linear_model():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    objective = Objective(model, F.cross_entropy, torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1]))
    torch.testing.assert_close(GaussNewton(objective).dense(), Hessian(objective).dense(), rtol=1e-12, atol=1e-14)


def test_both_come_from_one_point():
    objective = objective_of(BY_NAME["mlp_tanh"])
    point = objective.at()
    vector = torch.ones(objective.space.n)
    hessian, gauss_newton = point.hessian(), point.gauss_newton()
    first = hessian @ vector, gauss_newton @ vector
    second = hessian @ vector, gauss_newton @ vector
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert objective.ledger.counts == {"forward": 0, "gradient": 1, "hvp": 2, "ggnvp": 2}


def test_needs_outputs():
    objective = Objective.from_function(lambda x: (x**4).sum(), torch.ones(3))
    with pytest.raises(CombinationError, match="Use the Hessian instead"):
        GaussNewton(objective)


def test_outputs_without_a_graph_are_refused():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x

    model = Detached()
    objective = Objective(model, lambda z, t: (model.scale * z).sum() + t.sum(), torch.ones(2), torch.ones(2))
    with pytest.raises(CombinationError, match="no graph"):
        objective.at().gauss_newton()
