"""Steihaug-Toint against dense solutions, the boundary and the direct evaluation of its model."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import arithmetic, cg, steihaug


def decrease(A, g, s):
    return -(g @ s + 0.5 * s @ (A @ s)).item()


@pytest.mark.parametrize("seed", range(5))
def test_inside_the_region_it_is_the_newton_step(seed, spd):
    A, g = spd(30, seed)
    newton = -torch.linalg.solve(A, g)
    result = steihaug(A, g, 2 * newton.norm().item(), rtol=1e-12)
    assert (result.status, result.at_boundary) == ("converged", False)
    torch.testing.assert_close(result.solution, newton, rtol=1e-8, atol=1e-10)
    assert result.norm == pytest.approx(newton.norm().item(), rel=1e-8)
    assert result.model_decrease == pytest.approx(0.5 * (g @ torch.linalg.solve(A, g)).item(), rel=1e-10)


@pytest.mark.parametrize("fraction", [1e-6, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_step_lies_on_the_boundary(seed, fraction, counting_operator, spd):
    A, g = spd(30, seed)
    radius = fraction * torch.linalg.solve(A, g).norm().item()
    operator = counting_operator(A)
    result = steihaug(operator, g, radius)
    assert (result.status, result.at_boundary) == ("boundary", True)
    assert result.solution.norm().item() == pytest.approx(radius, rel=1e-10)
    assert result.norm == radius
    assert result.model_decrease == pytest.approx(decrease(A, g, result.solution), rel=1e-10)
    assert result.residual == pytest.approx((g + A @ result.solution).norm().item(), rel=1e-10)
    assert operator.products == result.products == result.iterations


@pytest.mark.parametrize("seed", range(8))
def test_at_least_half_of_the_optimal_decrease_when_convex(seed, spd):
    # Yuan (2000): truncated CG attains at least half of the optimal decrease of a convex model.
    A, g = spd(20, seed)
    radius = 0.3 * torch.linalg.solve(A, g).norm().item()
    values, vectors = torch.linalg.eigh(A)
    low, high = 0.0, 1e6
    for _ in range(200):  # the exact solution solves (A + shift I) s = -g with ||s|| = radius
        shift = 0.5 * (low + high)
        s = -vectors @ ((vectors.T @ g) / (values + shift))
        low, high = (shift, high) if s.norm() > radius else (low, shift)
    optimal = decrease(A, g, s)
    ours = steihaug(A, g, radius).model_decrease
    assert 0.5 * optimal <= ours <= optimal * (1 + 1e-9)


@pytest.mark.parametrize("radius", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("seed", range(5))
def test_negative_curvature_goes_to_the_boundary(seed, radius, symmetric):
    A, g = symmetric(30, seed, low=-5.0)
    result = steihaug(A, g, radius, rtol=1e-12)
    assert result.at_boundary
    assert result.solution.norm().item() == pytest.approx(radius, rel=1e-8)
    assert result.model_decrease == pytest.approx(decrease(A, g, result.solution), rel=1e-8)
    cauchy = decrease(A, g, -radius * g / g.norm())
    assert result.model_decrease >= cauchy - 1e-12
    if result.status == "negative_curvature":
        p = result.curvature_direction
        assert result.curvature == pytest.approx((p @ (A @ p) / (p @ p)).item(), rel=1e-8)
        assert result.curvature <= 0
    else:
        assert result.curvature_direction is None


def test_the_lower_end_of_the_line_is_taken():
    # p has a large component along s, so the far end of the line lies backward across the region, where the
    # negative curvature has had more room: there the model is lower.
    A = torch.diag(torch.tensor([1.0, -20.0], dtype=torch.float64))
    g = torch.tensor([-1.0, -0.05], dtype=torch.float64)
    result = steihaug(A, g, 1.5)
    assert result.status == "negative_curvature"
    p = result.curvature_direction
    inner = cg(A, -g).solution
    c = (inner @ inner - 1.5**2).item()
    b, a = (inner @ p).item(), (p @ p).item()
    ends = [(-b + sign * math.sqrt(b * b - a * c)) / a for sign in (1, -1)]
    best = max(decrease(A, g, inner + end * p) for end in ends)
    assert result.model_decrease == pytest.approx(best, rel=1e-10)


def test_negative_curvature_orthogonal_to_the_gradient_is_missed():
    A = torch.diag(torch.tensor([-1.0, 1.0, 2.0], dtype=torch.float64))
    result = steihaug(A, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64), 100.0)
    assert result.status == "converged"


def test_zero_gradient_is_a_status(counting_operator, symmetric):
    A = counting_operator(symmetric(5, 0)[0])
    result = steihaug(A, torch.zeros(5), 1.0)
    assert (result.status, A.products, result.model_decrease, result.norm) == ("zero_rhs", 0, 0.0, 0.0)
    assert not result.solution.any()


@pytest.mark.parametrize("radius", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("kind", ["spd", "symmetric"])
def test_preconditioned_equals_the_transformed_problem(kind, radius, request, spd):
    make = request.getfixturevalue(kind)
    A, g = make(20, 1)
    L = torch.linalg.cholesky(spd(20, 9)[0])
    L_inverse = torch.linalg.inv(L)
    ours = steihaug(A, g, radius, preconditioner=lambda r: torch.cholesky_solve(r[:, None], L)[:, 0], max_iter=8)
    plain = steihaug(L_inverse @ A @ L_inverse.T, L_inverse @ g, radius, max_iter=8)
    assert (ours.status, ours.iterations) == (plain.status, plain.iterations)
    torch.testing.assert_close(ours.solution, L_inverse.T @ plain.solution, rtol=1e-7, atol=1e-9)
    assert ours.model_decrease == pytest.approx(plain.model_decrease, rel=1e-8)
    assert ours.norm == pytest.approx((L.T @ ours.solution).norm().item(), rel=1e-8)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_norm_recurrence_holds_where_orthogonality_is_lost(condition, spd):
    A, g = spd(60, 2, condition=condition)
    radius = 0.9 * torch.linalg.solve(A, g).norm().item()
    result = steihaug(A, g, radius, rtol=1e-12, max_iter=600)
    assert result.norm == pytest.approx(result.solution.norm().item(), rel=1e-5)
    assert result.solution.norm().item() <= radius * (1 + 1e-5)
    assert result.model_decrease == pytest.approx(decrease(A, g, result.solution), rel=1e-6)


def test_norms_never_shrink_and_decrease_never_falls_with_more_iterations(symmetric):
    A, g = symmetric(30, 3, low=0.05)
    results = [steihaug(A, g, 5.0, rtol=0.0, max_iter=k) for k in range(1, 20)]
    norms = [result.norm for result in results]
    gains = [result.model_decrease for result in results]
    assert norms == sorted(norms)
    assert gains == sorted(gains)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_product_leaves_the_last_finite_step(bad, counting_operator, spd):
    A, g = spd(20, 4)
    result = steihaug(counting_operator(A, {3: bad}), g, 1e3)
    assert (result.status, result.products, result.iterations, result.at_boundary) == (
        "non_finite",
        3,
        2,
        False,
    )
    expected = steihaug(A, g, 1e3, rtol=0.0, max_iter=2)
    torch.testing.assert_close(result.solution, expected.solution)
    assert result.model_decrease == expected.model_decrease
    assert steihaug(A, g * math.nan, 1.0).status == "non_finite"


def test_non_finite_preconditioner_takes_the_step_back(spd):
    A, g = spd(20, 4)
    calls = []

    def preconditioner(r):
        calls.append(1)
        return r * (math.nan if len(calls) == 4 else 1.0)

    result = steihaug(A, g, 1e3, preconditioner=preconditioner)
    expected = steihaug(A, g, 1e3, rtol=0.0, max_iter=2)
    assert (result.status, result.iterations) == ("non_finite", 2)
    torch.testing.assert_close(result.solution, expected.solution)
    assert result.norm == pytest.approx(expected.norm)


def test_indefinite_preconditioner_is_a_status(spd):
    A, g = spd(5, 0)
    assert steihaug(A, g, 1.0, preconditioner=lambda r: -r).status == "indefinite_preconditioner"


@pytest.mark.parametrize("kind", ["spd", "symmetric"])
@pytest.mark.parametrize("radius", [0.1, 100.0])
def test_device_scalars_take_the_same_path_as_host_scalars(monkeypatch, kind, radius, request):
    make = request.getfixturevalue(kind)
    A, g = make(30, 0)
    host = steihaug(A, g, radius, max_iter=10)
    monkeypatch.setattr(arithmetic, "HostScalars", arithmetic.DeviceScalars)
    device = steihaug(A, g, radius, max_iter=10)
    assert (host.status, host.iterations) == (device.status, device.iterations)
    torch.testing.assert_close(host.solution, device.solution, rtol=1e-6, atol=1e-6)
    assert host.model_decrease == pytest.approx(device.model_decrease, rel=1e-6)


def test_float32(spd):
    A, g = spd(100, 6)
    for radius in (0.1, 1e3):
        result = steihaug(A.float(), g.float(), radius)
        assert result.model_decrease == pytest.approx(decrease(A, g, result.solution.double()), rel=1e-4)
        assert result.solution.norm().item() <= radius * (1 + 1e-5)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_bad_radius_is_refused(radius, spd):
    A, g = spd(5, 0)
    with pytest.raises(ConfigError, match="radius"):
        steihaug(A, g, radius)
