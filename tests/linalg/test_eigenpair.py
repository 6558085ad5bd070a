"""The smallest eigenvalue: value, residual, and the probability with which it was missed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import lanczos_product_bound, minimum_eigenpair


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Diagonal:
    def __init__(self, values):
        self.values = torch.as_tensor(values, dtype=torch.float64)

    def __matmul__(self, v):
        return self.values.to(v.dtype) * v


def chebyshev_spectrum(n):
    """Eigenvalues 1 - cos, dense towards both ends: hard for Lanczos."""
    return 1.0 - torch.cos(torch.linspace(0, math.pi, n, dtype=torch.float64))


SPECTRA = {
    "even": lambda n: torch.linspace(-1, 1, n, dtype=torch.float64),
    "clustered": chebyshev_spectrum,
    "one negative": lambda n: torch.cat(
        [torch.tensor([-0.05], dtype=torch.float64), torch.linspace(0, 1, n - 1, dtype=torch.float64)]
    ),
    "outlier above": lambda n: torch.cat(
        [torch.linspace(-1, 1, n - 1, dtype=torch.float64), torch.tensor([500.0], dtype=torch.float64)]
    ),
    "double": lambda n: torch.linspace(-1, 1, n // 2, dtype=torch.float64).repeat(2),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_agrees_with_eigsh(name):
    values = SPECTRA[name](300)
    pair = minimum_eigenpair(Diagonal(values), 300, tol=1e-8, generator=seeded(0), dtype=torch.float64)
    smallest = values.min().item()
    if name != "clustered":  # there ARPACK, with its own defaults, converges to the second eigenvalue
        theirs = scipy.sparse.linalg.eigsh(np.diag(values.numpy()), k=1, which="SA", return_eigenvectors=False)[0]
        assert pair.value == pytest.approx(theirs, abs=2e-8)
    assert pair.converged
    assert pair.value == pytest.approx(smallest, abs=2e-8)
    residual = (Diagonal(values) @ pair.vector - pair.value * pair.vector).norm().item()
    assert pair.residual == pytest.approx(residual, abs=1e-10)
    assert pair.vector.norm().item() == pytest.approx(1.0)
    assert pair.lower_bound <= smallest <= pair.value + 1e-12
    assert pair.largest <= values.max().item() + 1e-9


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("delta", [0.3, 0.05])
def test_bound_holds_as_often_as_it_says(name, delta):
    n, runs = 150, 150
    values = SPECTRA[name](n)
    true = values.min().item()
    misses = 0
    for seed in range(runs):
        pair = minimum_eigenpair(
            Diagonal(values), n, tol=0.02, delta=delta, generator=seeded(seed), dtype=torch.float64
        )
        assert pair.converged
        assert pair.value - pair.lower_bound <= 0.02
        misses += not (pair.lower_bound <= true <= pair.value + 1e-12)
    assert misses <= delta * runs + 3 * math.sqrt(delta * runs)


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
@pytest.mark.parametrize("delta", [0.5, 0.1])
def test_a_priori_count_holds_on_many_random_starts(epsilon, delta):
    n, runs = 300, 150
    values = chebyshev_spectrum(n)
    products = lanczos_product_bound(n, epsilon, delta)
    missed = 0
    for seed in range(runs):
        pair = minimum_eigenpair(
            Diagonal(values), n, tol=0.0, generator=seeded(seed), dtype=torch.float64, max_products=products
        )
        missed += pair.value - 0.0 > epsilon * 2.0
    assert missed <= delta * runs


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("epsilon", [0.1, 0.01, 0.001])
def test_a_posteriori_bound_needs_hardly_more_products_than_the_a_priori_count(name, epsilon):
    n, delta = 1000, 0.01
    values = SPECTRA[name](n)
    spread = (values.max() - values.min()).item()
    for seed in range(5):
        pair = minimum_eigenpair(
            Diagonal(values),
            n,
            tol=epsilon * spread,
            delta=delta,
            generator=seeded(seed),
            dtype=torch.float64,
        )
        assert pair.converged
        # It looks only at every tenth step, hence the tenth.
        assert pair.products <= 1.1 * lanczos_product_bound(n, epsilon, delta) + 1


def test_product_bound_is_the_formula_and_that_of_royer_oneill_wright():
    for n, epsilon, delta in [(1000, 0.01, 0.1), (10**6, 1e-4, 1e-3), (50, 0.5, 0.5)]:
        k = lanczos_product_bound(n, epsilon, delta)
        if k < n:
            assert 1.648 * math.sqrt(n) * math.exp(-math.sqrt(epsilon) * (2 * k - 1)) <= delta
            assert 1.648 * math.sqrt(n) * math.exp(-math.sqrt(epsilon) * (2 * k - 3)) > delta
        theirs = min(n, 1 + math.ceil(0.5 * math.log(2.75 * n / delta**2) * math.sqrt(1 / (4 * epsilon))))
        assert theirs - 2 <= k <= theirs
    assert lanczos_product_bound(10, 1e-12, 1e-12) == 10


@pytest.mark.parametrize("seed", range(5))
def test_threshold_is_decided_with_fewer_products(seed):
    values = torch.cat([torch.tensor([-0.5], dtype=torch.float64), torch.linspace(0.1, 10, 999, dtype=torch.float64)])
    options = {"generator": seeded(seed), "dtype": torch.float64}
    below = minimum_eigenpair(Diagonal(values), 1000, tol=1e-6, threshold=-0.1, **options)
    assert below.status == "below_threshold"
    assert below.value < -0.1
    above = minimum_eigenpair(Diagonal(values), 1000, tol=1e-6, threshold=-1.0, **options)
    assert above.status == "above_threshold"
    assert above.lower_bound >= -1.0
    full = minimum_eigenpair(Diagonal(values), 1000, tol=1e-6, **options)
    assert max(below.products, above.products) < full.products


def test_limited_products_are_honest():
    pair = minimum_eigenpair(
        Diagonal(chebyshev_spectrum(1000)),
        1000,
        tol=1e-6,
        generator=seeded(0),
        dtype=torch.float64,
        max_products=10,
    )
    assert (pair.status, pair.products, pair.converged) == ("max_iter", 10, False)
    assert pair.lower_bound < 0.0 < pair.value


@pytest.mark.parametrize("matrix", [torch.zeros(4, 4), torch.eye(4), -3.0 * torch.eye(1), torch.eye(2)])
def test_degenerate_operators(matrix):
    n = matrix.shape[0]
    pair = minimum_eigenpair(matrix.double(), n, tol=1e-8, generator=seeded(0), dtype=torch.float64)
    assert pair.converged
    assert pair.products == 1
    assert pair.value == pytest.approx(matrix[0, 0].item())
    assert pair.lower_bound <= pair.value


def test_float32_does_not_claim_more_than_its_rounding():
    values = 1000.0 * chebyshev_spectrum(100) - 1e-4
    options = {"n": 100, "tol": 1e-5, "generator": seeded(0)}
    pair = minimum_eigenpair(Diagonal(values), dtype=torch.float32, **options)
    assert not pair.converged
    assert pair.lower_bound < -1e-4
    assert minimum_eigenpair(Diagonal(values), dtype=torch.float64, **options).converged


def test_an_eigenvalue_hidden_below_rounding_is_not_excluded():
    # The residual that an eigenvalue 1 - s leaves, s times the start's component, may drown in rounding.
    n, delta = 100, 0.01
    pair = minimum_eigenpair(torch.eye(n), n, tol=1e-8, delta=delta, generator=seeded(0))
    assert pair.status == "invariant"
    component = delta * math.sqrt(math.pi / (2 * n))
    assert pair.lower_bound <= 1.0 - torch.finfo(torch.float32).eps / component


def test_non_finite_operator_is_a_status(counting_operator, symmetric):
    A, _ = symmetric(10, 0)
    pair = minimum_eigenpair(counting_operator(A, {1: math.nan}), 10, tol=1e-3, dtype=torch.float64)
    assert (pair.status, pair.vector, pair.converged) == ("non_finite", None, False)
    assert math.isnan(pair.value)
    assert pair.lower_bound == -math.inf
    pair = minimum_eigenpair(
        counting_operator(A, {5: math.inf}), 10, tol=1e-3, generator=seeded(0), dtype=torch.float64
    )
    assert (pair.status, pair.products) == ("non_finite", 5)
    assert math.isfinite(pair.value)


def test_generator_makes_it_repeatable(symmetric):
    A, _ = symmetric(50, 0)
    first, second = (
        minimum_eigenpair(A, 50, tol=1e-3, generator=seeded(3), dtype=torch.float64, max_products=12) for _ in range(2)
    )
    assert first.value == second.value
    assert torch.equal(first.vector, second.vector)


@pytest.mark.parametrize(
    "options",
    [{"tol": -1.0}, {"tol": 1.0, "delta": 0.0}, {"tol": 1.0, "delta": 1.0}, {"tol": 1.0, "max_products": 0}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError):
        minimum_eigenpair(torch.eye(3), 3, **options)
    with pytest.raises(ConfigError):
        lanczos_product_bound(10, 0.0, 0.1)
