"""MINRES against SciPy and dense solutions, and its certificate of non-positive curvature against dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import lanczos, minres


def singular(n, seed, rank, low=-3.0):
    """A singular indefinite matrix and a right-hand side in its range."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    values = torch.zeros(n, dtype=torch.float64)
    values[:rank] = torch.linspace(low, 10.0, rank, dtype=torch.float64) + 0.05
    A = basis @ torch.diag(values) @ basis.T
    return A, A @ torch.randn(n, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["spd", "symmetric", "singular"])
def test_it_solves_what_scipy_solves(kind, seed, request):
    A, b = singular(30, seed, 20) if kind == "singular" else request.getfixturevalue(kind)(30, seed)
    result = minres(A, b, rtol=1e-12, stop_at_curvature=False, max_iter=200)
    theirs, info = scipy.sparse.linalg.minres(A.numpy(), b.numpy(), rtol=1e-14, maxiter=200)
    assert info == 0
    assert result.status == "converged"
    torch.testing.assert_close(result.solution, torch.from_numpy(theirs), rtol=1e-6, atol=1e-7)
    assert (A @ result.solution - b).norm() <= 1e-9 * b.norm()


@pytest.mark.parametrize("kind", ["spd", "symmetric"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_an_iterate_has_the_least_residual_in_its_krylov_space(kind, steps, request):
    A, b = request.getfixturevalue(kind)(30, 1)
    result = minres(A, b, rtol=0.0, max_iter=steps, stop_at_curvature=False)
    basis = lanczos(A, b, steps).basis
    best = (A @ basis @ torch.linalg.lstsq(A @ basis, b).solution - b).norm().item()
    r = b - A @ result.solution
    assert r.norm().item() == pytest.approx(best, rel=1e-9)
    assert result.residual == pytest.approx(best, rel=1e-9)
    assert (result.iterations, result.products) == (steps, steps)
    x = result.solution
    assert result.model_decrease == pytest.approx((b @ x - 0.5 * x @ A @ x).item(), rel=1e-9)


@pytest.mark.parametrize("low", [-5.0, -0.5, -0.05, -1e-3, 0.0, 1e-3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_curvature_is_found_in_the_step_in_which_the_matrix_stops_being_definite(seed, low, symmetric):
    A, b = symmetric(25, seed, low=low)
    T = lanczos(A, b, 25)
    tridiagonal = torch.diag(T.alphas) + torch.diag(T.betas[:-1], 1) + torch.diag(T.betas[:-1], -1)
    lowest = [float(torch.linalg.eigvalsh(tridiagonal[:m, :m])[0]) for m in range(1, 26)]
    first = next((m for m, value in enumerate(lowest, 1) if value <= 1e-9), None)
    result = minres(A, b, rtol=1e-9, max_iter=40)
    if first is None:
        assert result.status == "converged"
        assert result.curvature_direction is None
        return
    if low == 0.0:  # the last step, and zero only to rounding
        assert result.status in ("negative_curvature", "converged", "max_iter")
        return
    assert result.status == "negative_curvature"
    assert result.products == first
    p = result.curvature_direction
    torch.testing.assert_close(p, b - A @ result.solution, rtol=1e-8, atol=1e-10)
    assert result.curvature == pytest.approx((p @ A @ p / (p @ p)).item(), rel=1e-6, abs=1e-10)
    assert result.curvature <= 0
    # Both the direction and the iterate descend every function with gradient -b.
    assert (p @ b).item() == pytest.approx((p @ p).item(), rel=1e-8)
    assert (result.solution @ b).item() >= 0


def test_it_can_go_on_past_the_curvature_and_keep_its_direction(symmetric):
    A, b = symmetric(25, 0, low=-4.9)
    stopped, went_on = minres(A, b), minres(A, b, rtol=1e-12, stop_at_curvature=False)
    assert torch.equal(stopped.curvature_direction, went_on.curvature_direction)
    torch.testing.assert_close(went_on.solution, torch.linalg.solve(A, b), rtol=1e-7, atol=1e-8)


def test_the_normal_criterion_is_met_by_inconsistent_systems(symmetric):
    A, b = singular(30, 0, 20, low=1.0)
    null = torch.linalg.eigh(A).eigenvectors[:, 0]
    result = minres(A, b + null, rtol=1e-6, stop="normal", stop_at_curvature=False)
    x = result.solution
    r = b + null - A @ x
    assert result.status == "converged"
    assert (A @ r).norm() <= 1.01e-6 * (A @ x).norm()
    assert r.norm().item() == pytest.approx(1.0, rel=1e-6)
    curved = minres(A, b + null, rtol=0.0, stop="normal")
    assert curved.status == "negative_curvature"
    assert abs(curved.curvature) < 1e-10


def test_the_normal_criterion_is_that_of_the_iterate(spd):
    A, b = spd(40, 0, condition=1e3)
    loose = minres(A, b, rtol=0.3, stop="normal")
    x = loose.solution
    assert loose.status == "converged"
    assert (A @ (b - A @ x)).norm() <= 0.3 * (A @ x).norm() * (1 + 1e-9)
    shorter = minres(A, b, rtol=0.0, max_iter=loose.iterations - 1).solution
    assert (A @ (b - A @ shorter)).norm() > 0.3 * (A @ shorter).norm()


@pytest.mark.parametrize("kind", ["spd", "symmetric"])
def test_preconditioned_equals_the_transformed_problem(kind, request, spd):
    A, b = request.getfixturevalue(kind)(20, 0)
    M, _ = spd(20, 5, condition=50.0)
    values, vectors = torch.linalg.eigh(M)
    half = vectors @ torch.diag(values**-0.5) @ vectors.T
    inverse = torch.linalg.inv(M)
    for steps in (2, 6):
        options = {"rtol": 0.0, "max_iter": steps, "stop_at_curvature": False}
        ours = minres(A, b, preconditioner=lambda r: inverse @ r, **options)
        plain = minres(half @ A @ half, half @ b, **options)
        torch.testing.assert_close(ours.solution, half @ plain.solution, rtol=1e-7, atol=1e-9)
        assert ours.residual == pytest.approx(plain.residual, rel=1e-8)
    ours = minres(A, b, preconditioner=lambda r: inverse @ r, rtol=1e-12)
    if kind == "symmetric":
        p = ours.curvature_direction
        torch.testing.assert_close(p, inverse @ (b - A @ ours.solution), rtol=1e-7, atol=1e-9)
        assert ours.curvature == pytest.approx((p @ A @ p / (p @ p)).item(), rel=1e-6)


def test_float32(symmetric, spd):
    A, b = spd(60, 0)
    result = minres(A.float(), b.float(), rtol=1e-4)
    assert result.solution.dtype == torch.float32
    assert (A @ result.solution.double() - b).norm() <= 1.1e-4 * b.norm()
    A, b = symmetric(60, 0, low=-3.0)
    p = minres(A.float(), b.float()).curvature_direction.double()
    assert p @ A @ p < 0


def test_ends_without_a_step(spd, counting_operator):
    A, b = spd(5, 0)
    operator = counting_operator(A)
    zero = minres(operator, torch.zeros(5))
    assert (zero.status, operator.products, zero.model_decrease) == ("zero_rhs", 0, 0.0)
    assert minres(operator, b * math.nan).status == "non_finite"
    assert minres(operator, b, preconditioner=lambda r: -r).status == "indefinite_preconditioner"
    assert minres(operator, b, atol=1e9).status == "converged"
    assert minres(operator, b, max_iter=0).status == "max_iter"
    assert operator.products == 0


@pytest.mark.parametrize("when", [1, 4])
def test_a_product_that_is_not_finite_leaves_the_last_iterate(when, counting_operator, spd):
    A, b = spd(20, 0)
    result = minres(counting_operator(A, poison={when: math.nan}), b, rtol=1e-12)
    assert result.status == "non_finite"
    assert torch.isfinite(result.solution).all()
    assert result.iterations == when - 1


@pytest.mark.parametrize("options", [{"rtol": -1.0}, {"atol": np.nan}, {"stop": "never"}, {"max_iter": -1}])
def test_bad_options_are_refused(options, spd):
    A, b = spd(5, 0)
    with pytest.raises(ConfigError):
        minres(A, b, **options)
