"""The Nystrom approximation against the best of its rank, its error bound, and what it does to a condition number."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.core.errors import ConfigError, NonFiniteError
from hybridopt.linalg import cg
from hybridopt.linalg.nystrom import NystromApproximation, nystrom


def psd(n, seed, values):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    return basis @ torch.diag(values) @ basis.T, basis


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def approximate(A, rank, seed=0, **more):
    return nystrom(A, A.shape[0], rank, generator=generator(seed), dtype=A.dtype, **more)


def expected_error(values, s):
    """The bound of Frangella, Tropp and Udell (2023, proposition 2.2), least over its free parameter p."""
    best = math.inf
    for p in range(2, s - 1):
        tail = values[s - p :]
        best = min(best, (1 + 2 * (s - p) / (p - 1)) * tail[0] + 2 * math.e**2 * s / (p * p - 1) * tail.sum())
    return float(best)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decay", ["geometric", "power", "step"])
def test_the_mean_error_is_below_the_papers_bound_and_above_the_best(seed, decay):
    index = torch.arange(100, dtype=torch.float64)
    values = {"geometric": 0.8**index, "power": (1 + index) ** -2, "step": (index < 10).double() + 1e-3}[decay]
    A, _ = psd(100, seed, values)
    errors = []
    for draw in range(5):
        approximation = approximate(A, 20, draw)
        difference = A - approximation.dense()
        errors.append(torch.linalg.matrix_norm(difference, 2).item())
        assert torch.linalg.eigvalsh(difference)[0] >= -1e-12  # it lies below A
        assert errors[-1] >= values[20].item() * (1 - 1e-9)
    assert sum(errors) / 5 <= expected_error(values, 20)


def test_an_operator_of_low_rank_is_found_exactly(counting_operator):
    values = torch.cat([torch.tensor([9.0, 4.0, 1.0, 0.1]), torch.zeros(36)]).double()
    A, basis = psd(40, 0, values)
    operator = counting_operator(A)
    approximation = nystrom(operator, 40, 8, generator=generator(), dtype=torch.float64)
    assert operator.products == approximation.rank == 8
    torch.testing.assert_close(approximation.values[:4], values[:4], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(approximation.dense(), A, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close((approximation.vectors[:, :4].T @ basis[:, :4]).abs(), torch.eye(4).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_vectors_are_orthonormal_and_values_descend(dtype):
    A, _ = psd(60, 1, torch.logspace(2, -6, 60, dtype=torch.float64))
    approximation = approximate(A.to(dtype), 15)
    assert approximation.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    gram = approximation.vectors.T @ approximation.vectors
    torch.testing.assert_close(gram, torch.eye(15, dtype=dtype), rtol=0, atol=tolerance)
    assert (approximation.values.diff() <= 0).all()
    assert (approximation.values >= 0).all()
    assert approximation.values[0].item() == pytest.approx(100.0, rel=1e-2)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 10.0])
def test_the_preconditioner_is_the_formula(mu):
    A, _ = psd(30, 0, torch.logspace(2, -4, 30, dtype=torch.float64))
    approximation = approximate(A, 10)
    U, values = approximation.vectors, approximation.values
    inverse = (values[-1] + mu) * U @ torch.diag(1 / (values + mu)) @ U.T + torch.eye(30).double() - U @ U.T
    v = torch.randn(30, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(approximation.inverse_apply(v, mu), inverse @ v)
    assert torch.linalg.eigvalsh(inverse)[0] > 0


def test_it_takes_a_power_law_spectrum_to_a_small_condition_number():
    values = 1e3 * (1 + torch.arange(200, dtype=torch.float64)) ** -3
    A, _ = psd(200, 0, values)
    mu = 1e-2
    damped = A + mu * torch.eye(200, dtype=torch.float64)
    approximation = approximate(A, 50)
    half = torch.linalg.eigh(_dense(approximation, mu))
    root = half.eigenvectors @ torch.diag(half.eigenvalues.sqrt()) @ half.eigenvectors.T
    spectrum = torch.linalg.eigvalsh(root @ damped @ root)
    assert spectrum[-1] / spectrum[0] < 30  # from 1e5
    b = torch.randn(200, dtype=torch.float64, generator=generator())
    plain = cg(damped, b, rtol=1e-8)
    quick = cg(damped, b, rtol=1e-8, preconditioner=lambda r: approximation.inverse_apply(r, mu))
    assert quick.iterations < plain.iterations / 3
    torch.testing.assert_close(quick.solution, torch.linalg.solve(damped, b), rtol=1e-5, atol=1e-6)


def _dense(approximation, mu):
    return torch.stack([approximation.inverse_apply(e, mu) for e in torch.eye(approximation.n).double()])


@pytest.mark.parametrize("low", [-1e-8, -0.1, -5.0])
def test_an_indefinite_operator_keeps_its_large_eigenvalues(low):
    values = torch.cat([torch.tensor([1e3, 100.0]), torch.linspace(0.01, low, 38)]).double()
    A, _ = psd(40, 0, values)
    approximation = approximate(A, 12)
    torch.testing.assert_close(approximation.values[:2], values[:2], rtol=1e-3, atol=5 * abs(low))
    assert (approximation.values >= 0).all()
    inverse = _dense(approximation, 0.1)
    assert torch.linalg.eigvalsh(0.5 * (inverse + inverse.T))[0] > 0


def test_with_all_columns_an_indefinite_operator_is_cut_to_its_positive_part():
    values = torch.tensor([7.0, 3.0, 0.5, -0.5, -2.0], dtype=torch.float64)
    A, basis = psd(5, 0, values)
    approximation = approximate(A, 5)
    torch.testing.assert_close(approximation.values, values.clamp(min=0.0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(approximation.dense(), basis @ torch.diag(values.clamp(min=0.0)) @ basis.T)


def test_more_columns_than_rows_and_the_zero_operator():
    A, _ = psd(6, 0, torch.linspace(1, 2, 6, dtype=torch.float64))
    whole = approximate(A, 60)
    assert whole.rank == 6
    torch.testing.assert_close(whole.dense(), A)
    zero = approximate(torch.zeros(6, 6, dtype=torch.float64), 3)
    assert not zero.values.any()
    v = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(zero.inverse_apply(v, 0.1), v)


def test_it_is_repeatable_and_an_operator_of_its_own():
    A, _ = psd(20, 0, torch.logspace(1, -3, 20, dtype=torch.float64))
    first, again, other = approximate(A, 5), approximate(A, 5), approximate(A, 5, seed=1)
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)
    v = torch.ones(20, dtype=torch.float64)
    torch.testing.assert_close((first + other) @ v, first.dense() @ v + other.dense() @ v)
    kept = NystromApproximation(first.vectors, first.values)
    assert torch.equal(kept @ v, first @ v)


def test_products_that_are_not_finite_and_bad_options(counting_operator):
    A, _ = psd(10, 0, torch.ones(10, dtype=torch.float64))
    with pytest.raises(NonFiniteError, match="not finite"):
        nystrom(counting_operator(A, poison={2: math.nan}), 10, 3, dtype=torch.float64)
    with pytest.raises(ConfigError, match="rank"):
        approximate(A, 0)
    with pytest.raises(ConfigError, match="mu"):
        approximate(A, 3).inverse_apply(torch.ones(10).double(), 0.0)
    with pytest.raises(ConfigError, match="shape"):
        NystromApproximation(torch.ones(4, 2), torch.ones(3))
