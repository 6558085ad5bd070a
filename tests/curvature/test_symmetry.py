"""Products are symmetric: u'Hw = w'Hu, whatever the layers."""

from __future__ import annotations

import pytest
import torch

from hybridopt.curvature import GaussNewton, Hessian
from tests.cases import CASES, Case
from tests.curvature.reference import objective_of

# Every case with the Hessian, and with the Gauss-Newton matrix where there are outputs.
OPERATORS = pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{kind.__name__}-{case.name}")
        for kind in (Hessian, GaussNewton)
        for case in CASES
        if kind is Hessian or case.loss_fn
    ],
)


@OPERATORS
def test_bilinear_form_is_symmetric(case: Case, kind: type):
    operator = kind(objective_of(case, torch.float64))
    generator = torch.Generator().manual_seed(1)
    u, w = torch.randn(2, operator.n, generator=generator, dtype=torch.float64)
    left, right = u @ (operator @ w), w @ (operator @ u)
    scale = u.norm() * (operator @ w).norm()
    assert abs(left - right) <= 1e-12 * scale
