"""Lanczos against dense eigenvalues; orthogonality, breakdown and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import lanczos


def ones(n):
    return torch.ones(n, dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_all_steps_give_all_eigenvalues(n, symmetric):
    A, start = symmetric(n, 0)
    result = lanczos(A, start, n)
    np.testing.assert_allclose(result.ritz_values.numpy(), np.linalg.eigvalsh(A.numpy()), atol=1e-11)
    assert result.products == n
    assert result.invariant


def test_orthogonality_and_the_three_term_relation(symmetric):
    A, start = symmetric(300, 1, low=-1.0, high=1.0)
    A = A + 1e4 * torch.outer(start, start) / (
        start @ start
    )  # an outlier that converges early, where plain Lanczos fails
    result = lanczos(A, start + 1.0, 120)
    V = result.basis
    identity = torch.eye(120, dtype=torch.float64)
    assert (V.T @ V - identity).abs().max() < 1e-12
    T = torch.diag(result.alphas) + torch.diag(result.betas[:-1], 1) + torch.diag(result.betas[:-1], -1)
    remainder = A @ V - V @ T
    assert remainder[:, :-1].abs().max() < 1e-8
    assert remainder[:, -1].norm().item() == pytest.approx(result.betas[-1].item(), rel=1e-6)


@pytest.mark.parametrize("nearly", [1e-3, 1e-6, 1e-9, 1e-12, 1e-13])
def test_orthogonality_after_a_near_breakdown(nearly):
    # Three clusters: the third beta is about `nearly`, so the fourth vector is what cancellation has left.
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).repeat(30)
    values = values + nearly * torch.randn(90, dtype=torch.float64, generator=generator)
    result = lanczos(torch.diag(values), torch.ones(90, dtype=torch.float64), 20)
    assert result.betas.min() < 10 * nearly
    m = result.basis.shape[1]
    assert m > 3
    assert (result.basis.T @ result.basis - torch.eye(m, dtype=torch.float64)).abs().max() < 1e-12


def test_no_ghost_copies_of_converged_eigenvalues(symmetric):
    A, start = symmetric(100, 2, low=0.0, high=1.0)
    A = A + 100.0 * torch.outer(start, start) / (start @ start)
    result = lanczos(A, ones(100), 60)
    assert (result.ritz_values > 50).sum() == 1


def test_ritz_pairs_and_their_residuals(symmetric):
    A, start = symmetric(50, 3)
    result = lanczos(A, start, 20)
    vectors = result.ritz_vectors
    for i in range(20):
        y = vectors[:, i]
        assert y.norm().item() == pytest.approx(1.0, abs=1e-12)
        true = (A @ y - result.ritz_values[i] * y).norm().item()
        assert result.residuals[i].item() == pytest.approx(true, abs=1e-10)
        nearest = (torch.linalg.eigvalsh(A) - result.ritz_values[i]).abs().min()
        assert nearest <= true + 1e-12
    torch.testing.assert_close(result.ritz_vector(0), vectors[:, 0])
    torch.testing.assert_close(result.ritz_vector(-1), vectors[:, -1])


def test_extreme_pairs_agree_with_eigsh(symmetric):
    A, start = symmetric(200, 4)
    result = lanczos(A, start, 150)
    theirs = scipy.sparse.linalg.eigsh(A.numpy(), k=2, which="BE", return_eigenvectors=False)
    assert result.ritz_values[0].item() == pytest.approx(theirs.min(), abs=1e-8)
    assert result.ritz_values[-1].item() == pytest.approx(theirs.max(), abs=1e-8)


def test_breakdown_on_an_invariant_subspace(counting_operator):
    A = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64))
    start = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    operator = counting_operator(A)
    result = lanczos(operator, start, 6)
    assert (result.status, operator.products) == ("invariant", 2)
    torch.testing.assert_close(result.ritz_values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert result.residuals.max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_is_seen_in_either_precision(dtype):
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64).repeat(30)
    basis = torch.linalg.qr(torch.randn(90, 90, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    A = (basis @ torch.diag(values) @ basis.T).to(dtype)
    result = lanczos(A, torch.ones(90, dtype=dtype), 90)
    assert (result.status, result.products) == ("invariant", 3)
    torch.testing.assert_close(result.ritz_values.to(dtype), values[:3].to(dtype), rtol=1e-5, atol=1e-5)


def test_zero_operator_and_identity_break_down_at_once():
    for scale in (0.0, 1.0):
        result = lanczos(scale * torch.eye(5, dtype=torch.float64), ones(5), 5)
        assert (result.status, result.products, result.ritz_values.item()) == (
            "invariant",
            1,
            pytest.approx(scale),
        )


def test_stops_once_the_smallest_pair_has_converged(spd):
    A, start = spd(200, 5)
    A = A - 10.0 * torch.outer(start, start) / (start @ start)
    result = lanczos(A, start + 0.1, 200, tol=1e-6)
    assert result.status == "converged"
    assert result.products < 100
    assert result.residuals[0] <= 1e-6
    assert result.ritz_values[0].item() == pytest.approx(torch.linalg.eigvalsh(A)[0].item(), abs=1e-6)


def test_callback_sees_every_step_and_can_stop(symmetric):
    A, start = symmetric(30, 6)
    sizes = []

    def callback(alphas, betas):
        sizes.append((alphas.size, betas.size))
        return alphas.size == 7

    result = lanczos(A, start, 30, callback=callback)
    assert result.status == "stopped"
    assert sizes == [(k, k) for k in range(1, 8)]
    assert result.basis.shape == (30, 7)


def test_basis_outgrows_its_first_allocation(symmetric):
    A, start = symmetric(150, 7)
    result = lanczos(A, start, 100)
    assert result.basis.shape == (150, 100)
    assert (result.basis.T @ result.basis - torch.eye(100, dtype=torch.float64)).abs().max() < 1e-12


def test_float32_basis_is_orthogonal_to_its_precision(symmetric):
    A, start = symmetric(400, 8)
    result = lanczos(A.float(), start.float(), 100)
    assert (result.basis.T @ result.basis - torch.eye(100)).abs().max() < 2e-6
    assert result.ritz_values.dtype == torch.float64
    exact = lanczos(A, start, 100).ritz_values
    assert (result.ritz_values - exact)[[0, -1]].abs().max() < 1e-4


@pytest.mark.parametrize("at", [1, 4])
def test_non_finite_product_keeps_what_was_known(at, counting_operator, symmetric):
    A, start = symmetric(20, 9)
    result = lanczos(counting_operator(A, {at: math.nan}), start, 10)
    assert (result.status, result.products) == ("non_finite", at)
    assert result.basis.shape == (20, at - 1)
    assert result.ritz_values.isfinite().all()
    torch.testing.assert_close(result.ritz_values, lanczos(A, start, at - 1).ritz_values)


def test_zero_start_and_zero_steps(symmetric):
    A, start = symmetric(5, 0)
    assert lanczos(A, torch.zeros_like(start), 3).status == "zero_rhs"
    assert lanczos(A, start, 0).ritz_values.numel() == 0
    with pytest.raises(ConfigError, match="steps"):
        lanczos(A, start, -1)


def test_operator_may_reuse_its_output_buffer(symmetric):
    A, start = symmetric(20, 0)
    buffer = torch.empty(20, dtype=torch.float64)

    class Reusing:
        def __matmul__(self, v):
            return torch.mv(A, v, out=buffer)

    torch.testing.assert_close(lanczos(Reusing(), start, 10).ritz_values, lanczos(A, start, 10).ritz_values)
