"""One operator is one linear map: products repeat exactly, and products with other vectors between change nothing."""

from __future__ import annotations

import pytest
import torch

from hybridopt.curvature import GaussNewton, Hessian
from tests.cases import CASES, DTYPES, Case, cases
from tests.curvature.reference import objective_of, relative_error

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


@DTYPES
@OPERATORS
def test_products_repeat_exactly(case: Case, kind: type, dtype: torch.dtype):
    operator = kind(objective_of(case, dtype))
    u, w = torch.randn(2, operator.n, generator=torch.Generator().manual_seed(2), dtype=operator.dtype)
    first = operator @ u
    kept = first.clone()
    other = operator @ w
    assert torch.equal(operator @ u, kept)
    assert torch.equal(first, kept), "a later product wrote into an earlier result"
    tolerance = 1e-12 if operator.dtype == torch.float64 and dtype == torch.float64 else 2e-5
    assert relative_error(operator @ (u + w), kept + other) < tolerance


@cases()
def test_two_operators_at_one_point_agree(case: Case):
    objective = objective_of(case, torch.float64)
    vector = torch.ones(objective.space.n, dtype=torch.float64)
    assert torch.equal(Hessian(objective) @ vector, Hessian(objective) @ vector)
