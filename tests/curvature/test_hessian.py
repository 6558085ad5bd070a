"""The Hessian of every case equals its dense float64 reference."""

from __future__ import annotations

import torch

from hybridopt.curvature import Hessian
from hybridopt.objective import Objective
from tests.cases import DTYPES, Case, cases
from tests.curvature.reference import objective_of, probes, reference, relative_error

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@DTYPES
@cases()
def test_equals_the_reference(case: Case, dtype: torch.dtype):
    hessian = Hessian(objective_of(case, dtype))
    wanted = reference(case).hessian
    assert hessian.shape == tuple(wanted.shape)
    vectors = probes(hessian)
    assert relative_error(hessian @ vectors, wanted @ vectors.double()) < TOLERANCE[dtype]


@DTYPES
@cases()
def test_point_has_the_loss_and_gradient(case: Case, dtype: torch.dtype):
    point = objective_of(case, dtype).at()
    truth = reference(case)
    assert abs(point.value - truth.loss) <= TOLERANCE[dtype] * abs(truth.loss)
    assert relative_error(point.gradient, truth.gradient) < TOLERANCE[dtype]


@cases("mlp_tanh", "batch_norm_train", "lstm_packed", "weight_norm")
def test_dense_matrix(case: Case):
    matrix = Hessian(objective_of(case, torch.float64)).dense()
    assert relative_error(matrix, reference(case).hessian) < 1e-12


def test_quadratic_has_a_constant_hessian():
    matrix = torch.tensor([[2.0, -1.0], [-1.0, 5.0]], dtype=torch.float64)
    objective = Objective.from_function(lambda x: 0.5 * x @ matrix @ x, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(Hessian(objective).dense(), matrix)
