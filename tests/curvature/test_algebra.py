"""Sums, multiples and shifts of curvature operators against the same algebra on dense references."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import CombinationError
from hybridopt.curvature import Dense, GaussNewton, Hessian, Identity, Sum
from tests.cases import BY_NAME
from tests.curvature.reference import objective_of, reference, relative_error

CASE = BY_NAME["mlp_tanh"]


@pytest.fixture
def parts():
    objective = objective_of(CASE, torch.float64)
    truth = reference(CASE)
    return Hessian(objective), GaussNewton(objective), truth.hessian, truth.gauss_newton


@pytest.mark.parametrize(
    "combine",
    [
        pytest.param(lambda h, g, eye: h + g, id="sum"),
        pytest.param(lambda h, g, eye: h - g, id="difference"),
        pytest.param(lambda h, g, eye: -h, id="negative"),
        pytest.param(lambda h, g, eye: 2 * h, id="multiple"),
        pytest.param(lambda h, g, eye: g * 0.5, id="multiple-from-the-right"),
        pytest.param(lambda h, g, eye: h / 4, id="quotient"),
        pytest.param(lambda h, g, eye: h + 0.1 * eye, id="damped"),
        pytest.param(lambda h, g, eye: 0.1 * eye + h, id="damped-from-the-left"),
        pytest.param(lambda h, g, eye: (h + 0.1 * eye) - 2 * (g - eye) / 3, id="nested"),
        pytest.param(lambda h, g, eye: 0.7 * h + 0.3 * g, id="blend"),
    ],
)
def test_matches_dense_algebra(parts, combine):
    h, g, dense_h, dense_g = parts
    found = combine(h, g, Identity()).dense()
    wanted = combine(dense_h, dense_g, torch.eye(h.n, dtype=torch.float64))
    assert relative_error(found, wanted) < 1e-12


def test_sums_of_sums_are_flat(parts):
    h, g, *_ = parts
    total = ((h + g) + (h - 2 * g)) * 3
    assert [factor for factor, _ in total.terms] == [3, 3, 3, -6]
    assert not any(isinstance(part, Sum) for _, part in total.terms)


def test_a_dense_matrix_joins_in(parts):
    h, _, dense_h, _ = parts
    matrix = torch.diag(torch.arange(h.n, dtype=torch.float64))
    assert relative_error((Dense(matrix) + h).dense(), matrix + dense_h) < 1e-12


def test_knowledge_of_positive_semidefiniteness(parts):
    h, g, *_ = parts
    assert g.positive_semidefinite
    assert (g + 0.1 * Identity()).positive_semidefinite
    assert not (g - 0.1 * Identity()).positive_semidefinite
    assert not (h + g).positive_semidefinite
    assert not (-g).positive_semidefinite


def test_sizes_must_agree(parts):
    h = parts[0]
    with pytest.raises(CombinationError, match="one size"):
        h + Dense(torch.eye(2, dtype=torch.float64))


def test_dtypes_must_agree(parts):
    with pytest.raises(CombinationError, match="dtype"):
        parts[0] + Hessian(objective_of(CASE, torch.float32))


@pytest.mark.parametrize("other", [1.0, torch.eye(3), None])
def test_only_operators_are_added(parts, other):
    with pytest.raises(TypeError):
        parts[0] + other


def test_a_sum_costs_one_product_of_each(parts):
    h, g, *_ = parts
    ledger = h.point.objective.ledger
    before = ledger.counts
    (2 * h - g + Identity()) @ torch.ones(h.n, dtype=torch.float64)
    assert ledger.counts["hvp"] - before["hvp"] == 1
    assert ledger.counts["ggnvp"] - before["ggnvp"] == 1
