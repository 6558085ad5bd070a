"""What can be multiplied: vectors, matrices, and lists of tensors shaped as the parameters."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import ConfigError, ObjectiveError
from hybridopt.curvature import GaussNewton, Hessian, Identity
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import objective_of, probes

SELECTED = cases("mlp_tanh", "frozen", "tied", "unused", "lstm", "mixed_dtypes")


@SELECTED
def test_matrix_product_is_the_products_of_its_columns(case: Case):
    hessian = Hessian(objective_of(case))
    vectors = probes(hessian)
    product = hessian @ vectors
    assert product.shape == vectors.shape
    for column in range(vectors.shape[1]):
        assert torch.equal(product[:, column], hessian @ vectors[:, column])


@SELECTED
def test_list_product_is_the_flat_product_in_shapes(case: Case):
    objective = objective_of(case)
    hessian = Hessian(objective)
    vector = probes(hessian, 1)[:, 0]
    tensors = objective.space.tensors(vector)
    product = hessian @ tensors
    assert [p.shape for p in product] == [p.shape for p in objective.space.parameters]
    assert [p.dtype for p in product] == [p.dtype for p in objective.space.parameters]
    flat = hessian @ objective.space.pack(tensors)
    assert torch.equal(objective.space.pack(product), objective.space.pack(objective.space.tensors(flat)))


def test_list_product_passes_through_sums():
    objective = objective_of(BY_NAME["mlp_tanh"])
    hessian = Hessian(objective)
    tensors = [torch.ones_like(p) for p in objective.space.parameters]
    for operator in (hessian + 0.5 * Identity(), 0.5 * Identity() + hessian):
        plain = hessian @ tensors
        for shifted, product in zip(operator @ tensors, plain, strict=True):
            torch.testing.assert_close(shifted, product + 0.5)


def test_no_columns():
    hessian = Hessian(objective_of(BY_NAME["mlp_tanh"]))
    assert (hessian @ torch.zeros(hessian.n, 0)).shape == (hessian.n, 0)


def test_strided_vectors_are_taken():
    hessian = Hessian(objective_of(BY_NAME["mlp_tanh"]))
    vectors = probes(hessian, 2)
    assert torch.equal(hessian @ vectors[:, 1], hessian @ vectors[:, 1].contiguous())


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda n: torch.ones(n + 1), id="too-long"),
        pytest.param(lambda n: torch.ones(3, n), id="rows-and-columns-swapped"),
        pytest.param(lambda n: torch.ones(n, 1, 1), id="three-dimensions"),
        pytest.param(lambda n: torch.tensor(1.0), id="scalar"),
        pytest.param(lambda n: torch.ones(n, dtype=torch.float64), id="other-dtype"),
        pytest.param(lambda n: torch.ones(n, dtype=torch.int64), id="integers"),
        pytest.param(lambda n: [torch.ones(n)], id="list-of-one-flat-vector"),
        pytest.param(lambda n: [torch.ones(3)] * 4, id="list-of-wrong-shapes"),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    hessian = Hessian(objective_of(BY_NAME["mlp_tanh"]))
    with pytest.raises(ConfigError):
        hessian @ wrong(hessian.n)


@pytest.mark.parametrize("other", [3.0, "vector", None])
def test_what_is_no_tensor_is_a_type_error(other):
    with pytest.raises(TypeError):
        Hessian(objective_of(BY_NAME["mlp_tanh"])) @ other


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_needs_an_objective(kind):
    with pytest.raises(ObjectiveError, match="needs an Objective"):
        kind(torch.nn.Linear(2, 1))
