"""Conjugate gradients against SciPy, dense algebra and the definitions of their stops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import KrylovStatus, arithmetic, cg


def model(A, b, x):
    return (b @ x - 0.5 * x @ (A @ x)).item()


@pytest.mark.parametrize("seed", range(5))
def test_solves_positive_definite_systems(seed, spd):
    A, b = spd(40, seed)
    result = cg(A, b, rtol=1e-12)
    assert result.status == "converged"
    torch.testing.assert_close(result.solution, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-10)
    assert result.residual == pytest.approx((b - A @ result.solution).norm().item(), abs=1e-11)


def test_same_iterates_as_scipy(spd):
    A, b = spd(30, 0)
    theirs = []
    scipy.sparse.linalg.cg(A.numpy(), b.numpy(), rtol=1e-13, maxiter=12, callback=lambda x: theirs.append(x.copy()))
    for k in (1, 2, 5, 12):
        ours = cg(A, b, rtol=0.0, max_iter=k)
        assert (ours.status, ours.iterations, ours.products) == ("max_iter", k, k)
        np.testing.assert_allclose(ours.solution.numpy(), theirs[k - 1], rtol=1e-8, atol=1e-10)


def test_agrees_with_minres_solution(spd):
    A, b = spd(25, 3)
    theirs, info = scipy.sparse.linalg.minres(A.numpy(), b.numpy(), rtol=1e-13)
    assert info == 0
    np.testing.assert_allclose(cg(A, b, rtol=1e-12).solution.numpy(), theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_reported_model_decrease_is_the_direct_evaluation(k, spd):
    A, b = spd(30, 1)
    result = cg(A, b, rtol=0.0, max_iter=k)
    assert result.model_decrease == pytest.approx(model(A, b, result.solution), rel=1e-12)


def test_as_many_iterations_as_distinct_eigenvalues():
    basis = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    A = basis @ torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64).repeat(10)) @ basis.T
    result = cg(A, torch.ones(30, dtype=torch.float64), rtol=1e-10)
    assert (result.status, result.iterations) == ("converged", 3)


def test_preconditioned_equals_cg_on_the_transformed_system(spd):
    A, b = spd(30, 2)
    M, _ = spd(30, 7)
    L = torch.linalg.cholesky(M)
    L_inverse = torch.linalg.inv(L)
    transformed = L_inverse @ A @ L_inverse.T
    for k in (1, 4, 9):
        ours = cg(A, b, preconditioner=lambda r: torch.cholesky_solve(r[:, None], L)[:, 0], rtol=0.0, max_iter=k)
        plain = cg(transformed, L_inverse @ b, rtol=0.0, max_iter=k)
        torch.testing.assert_close(ours.solution, L_inverse.T @ plain.solution, rtol=1e-8, atol=1e-10)
        assert ours.model_decrease == pytest.approx(plain.model_decrease, rel=1e-10)


def test_exact_preconditioner_needs_one_iteration(spd):
    A, b = spd(30, 2)
    L = torch.linalg.cholesky(A)
    result = cg(A, b, preconditioner=lambda r: torch.cholesky_solve(r[:, None], L)[:, 0], rtol=1e-10)
    assert (result.status, result.iterations) == ("converged", 1)


def test_identity_preconditioner_may_return_its_argument(spd):
    A, b = spd(20, 4)
    plain, identity = cg(A, b), cg(A, b, preconditioner=lambda r: r)
    assert torch.equal(plain.solution, identity.solution)


def test_warm_start_at_the_solution_costs_one_product(spd):
    A, b = spd(20, 5)
    exact = torch.linalg.solve(A, b)
    kept = exact.clone()
    result = cg(A, b, x0=exact, rtol=1e-8)
    assert (result.status, result.iterations, result.products) == ("converged", 0, 1)
    assert result.model_decrease == pytest.approx(model(A, b, exact), rel=1e-10)
    result = cg(A, b, x0=exact + 1.0, rtol=1e-12)
    torch.testing.assert_close(result.solution, exact, rtol=1e-8, atol=1e-10)
    assert result.model_decrease == pytest.approx(model(A, b, result.solution), rel=1e-9)
    assert torch.equal(exact, kept), "the warm start was written to"


def test_zero_right_hand_side_is_a_status_and_costs_nothing(counting_operator, spd):
    A = counting_operator(spd(10, 0)[0])
    result = cg(A, torch.zeros(10, dtype=torch.float64), x0=torch.ones(10, dtype=torch.float64))
    assert (result.status, result.products, A.products) == ("zero_rhs", 0, 0)
    assert result.model_decrease == 0.0
    assert not result.solution.any()


@pytest.mark.parametrize("seed", range(6))
def test_negative_curvature_exit(seed, symmetric):
    A, b = symmetric(30, seed)
    result = cg(A, b, rtol=1e-12)
    assert result.status == KrylovStatus.NEGATIVE_CURVATURE
    p = result.curvature_direction
    assert result.curvature == pytest.approx((p @ (A @ p) / (p @ p)).item(), rel=1e-8)
    assert result.curvature <= 0
    assert result.model_decrease == pytest.approx(model(A, b, result.solution), rel=1e-9, abs=1e-12)
    assert (p @ (b - A @ result.solution)).item() > 0, "p must go down at the iterate"
    assert result.products == result.iterations + 1


def test_negative_curvature_is_found_iff_the_krylov_space_holds_it():
    eigenvalues = torch.tensor([-1.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    A = torch.diag(eigenvalues)
    b = torch.ones(5, dtype=torch.float64)
    assert cg(A, b, rtol=1e-12).status == "negative_curvature"
    b[0] = 0.0  # now the Krylov space is orthogonal to the only negative eigenvector
    result = cg(A, b, rtol=1e-12)
    assert result.status == "converged"
    torch.testing.assert_close(result.solution, b / eigenvalues)


def test_zero_curvature_counts_as_negative():
    A = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    result = cg(A, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert (result.status, result.curvature) == ("negative_curvature", 0.0)


def test_curvature_tolerance_is_relative_to_the_direction():
    A = 1e-3 * torch.eye(4, dtype=torch.float64)
    b = 100.0 * torch.ones(4, dtype=torch.float64)
    assert cg(A, b).status == "converged"
    result = cg(A, b, curvature_tol=1e-2)
    assert (result.status, result.curvature) == ("negative_curvature", pytest.approx(1e-3))


def test_curvature_that_vanishes_to_rounding_does_not_overflow():
    result = cg(1e-35 * torch.eye(3), 1e10 * torch.ones(3))
    assert result.status == "negative_curvature"
    assert not result.solution.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 3])
def test_non_finite_product_leaves_the_last_finite_iterate(bad, at, counting_operator, spd):
    A, b = spd(20, 6)
    wall = counting_operator(A, poison={at: bad})
    result = cg(wall, b)
    assert (result.status, result.products, result.iterations) == ("non_finite", at, at - 1)
    torch.testing.assert_close(result.solution, cg(A, b, rtol=0.0, max_iter=at - 1).solution)
    assert math.isfinite(result.residual)


def test_non_finite_preconditioner_takes_the_step_back(spd):
    A, b = spd(20, 6)
    calls = []

    def preconditioner(r):
        calls.append(1)
        return r * (math.nan if len(calls) == 4 else 1.0)

    result = cg(A, b, preconditioner=preconditioner)
    expected = cg(A, b, rtol=0.0, max_iter=2)
    assert (result.status, result.iterations, result.products) == ("non_finite", 2, 3)
    torch.testing.assert_close(result.solution, expected.solution)
    assert result.model_decrease == pytest.approx(expected.model_decrease)


def test_non_finite_warm_start_or_right_hand_side_is_a_status(spd):
    A, b = spd(5, 0)
    assert cg(A, b, x0=torch.full_like(b, math.nan)).status == "non_finite"
    assert cg(A, b * math.nan).status == "non_finite"
    assert not cg(A, b * math.nan).solution.any()


def test_indefinite_preconditioner_is_a_status(spd):
    A, b = spd(10, 0)
    assert cg(A, b, preconditioner=lambda r: -r).status == "indefinite_preconditioner"
    assert cg(A, b, preconditioner=lambda r: r * math.nan).status == "non_finite"


def test_progress_stop_is_the_rule_of_martens(spd):
    A, b = spd(200, 8, condition=1e4)
    result = cg(A, b, rtol=0.0, stop="progress")
    assert result.status == "progress"
    phi = [-cg(A, b, rtol=0.0, max_iter=k).model_decrease for k in range(result.iterations + 1)]

    def fires(i):
        k = max(10, math.ceil(0.1 * i))
        return i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 5e-4

    assert [i for i in range(1, len(phi)) if fires(i)] == [result.iterations]


def test_progress_mode_still_stops_at_the_solution(spd):
    A, b = spd(4, 0)
    assert cg(A, b, stop="progress").status == "converged"
    assert cg(torch.eye(4, dtype=torch.float64), b, stop="progress", rtol=0.0).status == "converged"


def test_kept_iterates_lie_on_the_geometric_grid(spd):
    A, b = spd(60, 9, condition=1e4)
    result = cg(A, b, rtol=0.0, max_iter=33, keep_iterates=True)
    grid = sorted({math.ceil(1.3**j) for j in range(14)})
    assert [k for k, _, _ in result.iterates] == [k for k in grid if k <= 33] + [33]
    for k, x, decrease in result.iterates:
        torch.testing.assert_close(x, cg(A, b, rtol=0.0, max_iter=k).solution)
        assert decrease == pytest.approx(model(A, b, x), rel=1e-10)
    assert result.iterates[-1][1] is result.solution


def test_float32_reaches_its_precision(spd):
    A, b = spd(100, 10)
    result = cg(A.float(), b.float(), rtol=1e-5)
    assert result.status == "converged"
    error = (result.solution.double() - torch.linalg.solve(A, b)).norm() / torch.linalg.solve(A, b).norm()
    assert error < 1e-3
    assert result.solution.dtype == torch.float32


@pytest.mark.parametrize("case", ["spd", "indefinite", "preconditioned", "nan"])
def test_device_scalars_take_the_same_path_as_host_scalars(monkeypatch, case, counting_operator, spd, symmetric):
    A, b = symmetric(30, 0) if case == "indefinite" else spd(30, 0)
    M = (lambda r: r / torch.diagonal(A)) if case == "preconditioned" else None
    poison = {4: math.nan} if case == "nan" else {}
    # Ten iterations: later ones of any two orders of summation part by CG's own loss of orthogonality.
    options = {"preconditioner": M, "curvature_tol": 1e-12, "max_iter": 10}
    host = cg(counting_operator(A, poison), b, **options)
    monkeypatch.setattr(arithmetic, "HostScalars", arithmetic.DeviceScalars)
    device = cg(counting_operator(A, poison), b, **options)
    assert (host.status, host.iterations, host.products) == (
        device.status,
        device.iterations,
        device.products,
    )
    torch.testing.assert_close(host.solution, device.solution, rtol=1e-10, atol=1e-12)
    assert host.model_decrease == pytest.approx(device.model_decrease, rel=1e-10)


def test_device_scalars_read_once_an_iteration(monkeypatch, spd):
    A, b = spd(30, 0)
    reads = []

    class Counted(arithmetic.DeviceScalars):
        @staticmethod
        def read(*values):
            reads.append(len(values))
            return arithmetic.DeviceScalars.read(*values)

    monkeypatch.setattr(arithmetic, "HostScalars", Counted)
    result = cg(A, b, rtol=0.0, max_iter=8)
    assert result.iterations == 8
    assert len(reads) == 8 + 2, "two reads before the loop, one an iteration"


def test_products_leave_no_autograd_history(spd):
    A, b = spd(10, 0)
    result = cg(A.requires_grad_(), b.requires_grad_())
    assert not result.solution.requires_grad
    assert result.solution.grad_fn is None


@pytest.mark.parametrize(
    "options",
    [{"rtol": -1.0}, {"atol": math.nan}, {"max_iter": -1}, {"stop": "never"}],
)
def test_bad_options_are_refused(options, spd):
    A, b = spd(5, 0)
    with pytest.raises(ConfigError):
        cg(A, b, **options)


def test_bad_vectors_are_refused(spd):
    A, b = spd(4, 0)
    with pytest.raises(ConfigError, match="flat float32 or float64"):
        cg(A, b.reshape(2, 2))
    with pytest.raises(ConfigError, match="flat float32 or float64"):
        cg(A, b.half())
