"""GLTR against dense solutions of the trust-region problem, the hard case, and the basis used again."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import KrylovSpace, gltr, steihaug
from tests.linalg.dense_models import trust_region_value


def model(A, g, s):
    return (g @ s + 0.5 * s @ (A @ s)).item()


def optimality(A, g, result):
    return (g + A @ result.solution + result.multiplier * result.solution).norm().item()


@pytest.mark.parametrize("radius", [1e-6, 1e-2, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("low", [1.0, 1e-8, 0.0, -1e-8, -1.0, -100.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_global_minimiser_in_the_ball(seed, low, radius, symmetric):
    A, g = symmetric(25, seed, low=low)
    value, multiplier = trust_region_value(A, g, radius)
    result = gltr(A, g, radius, rtol=1e-11)
    s = result.solution
    assert s.norm().item() <= radius * (1 + 1e-10)
    assert model(A, g, s) == pytest.approx(value, rel=1e-9)
    assert -result.model_decrease == pytest.approx(value, rel=1e-9)
    assert result.multiplier == pytest.approx(multiplier, rel=1e-6, abs=1e-9)
    assert optimality(A, g, result) <= 1e-9 * (g.norm().item() + result.multiplier * radius)
    assert result.at_boundary == (multiplier > 0)
    assert result.norm == pytest.approx(s.norm().item(), rel=1e-9)


def test_it_agrees_with_scipys_iterative_solver(symmetric):
    exact = pytest.importorskip("scipy.optimize._trustregion_exact")
    for seed in range(4):
        A, g = symmetric(15, seed, low=-3.0)
        peer = exact.IterativeSubproblem(
            x=g.numpy(), fun=lambda x: 0.0, jac=lambda x, g=g: g.numpy(), hess=lambda x, A=A: A.numpy(),
            k_easy=1e-10, k_hard=1e-10,
        )  # fmt: skip
        theirs = torch.from_numpy(peer.solve(0.7)[0])
        torch.testing.assert_close(gltr(A, g, 0.7, rtol=1e-12).solution, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_never_above_steihaug_at_the_same_products(seed, symmetric):
    A, g = symmetric(40, seed, low=-2.0)
    for radius in (0.1, 1.0, 10.0):
        short = steihaug(A, g, radius)
        assert gltr(A, g, radius, max_iter=short.products).model_decrease >= short.model_decrease * (1 - 1e-12)


@pytest.mark.parametrize("kind", ["spd", "symmetric"])
def test_the_reported_residual_and_decrease_hold_when_it_stops_early(kind, request, counting_operator):
    A, g = request.getfixturevalue(kind)(40, 1)
    for radius in (0.1, 2.0, 1e3):
        operator = counting_operator(A)
        result = gltr(operator, g, radius, rtol=1e-2)
        assert result.residual <= 1e-2 * g.norm().item()
        assert optimality(A, g, result) == pytest.approx(result.residual, rel=1e-8, abs=1e-10)
        assert result.model_decrease == pytest.approx(-model(A, g, result.solution), rel=1e-9)
        assert operator.products == result.products < 40


def test_another_radius_on_the_same_space_needs_no_products(symmetric, counting_operator):
    A, g = symmetric(40, 3, low=-1.0)
    operator = counting_operator(A)
    space = KrylovSpace(operator, g)
    first = gltr(operator, g, 4.0, rtol=1e-10, space=space)
    spent = operator.products
    assert first.products == spent == space.products
    for radius in (1.0, 0.3, 1e-3):
        again = gltr(operator, g, radius, rtol=1e-10, space=space)
        assert (again.products, operator.products) == (0, spent)
        assert -again.model_decrease == pytest.approx(trust_region_value(A, g, radius)[0], rel=1e-9)


def test_a_larger_radius_lets_the_space_grow(spd):
    A, g = spd(40, 0)
    space = KrylovSpace(A, g)
    small = gltr(A, g, 1e-3, rtol=1e-10, space=space)
    large = gltr(A, g, 1e3, rtol=1e-10, space=space)
    assert small.products < space.products == small.products + large.products
    torch.testing.assert_close(large.solution, -torch.linalg.solve(A, g), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("radius", [0.05, 1.0, 50.0])
def test_the_hard_case_is_followed_along_what_the_gradient_does_not_see(radius):
    values = torch.tensor([-2.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    A = basis @ torch.diag(values) @ basis.T
    g = basis @ torch.tensor([0, 0, 0, 1.0, 1.0, 0, 0, 0], dtype=torch.float64)
    result = gltr(A, g, radius, rtol=1e-10, generator=torch.Generator().manual_seed(1))
    value, multiplier = trust_region_value(A, g, radius)
    assert model(A, g, result.solution) == pytest.approx(value, rel=1e-8)
    assert result.multiplier == pytest.approx(multiplier, rel=1e-8)
    assert result.curvature == pytest.approx(-2.0)
    d = result.curvature_direction
    assert (d @ A @ d / (d @ d)).item() == pytest.approx(-2.0)
    blind = gltr(A, g, radius, rtol=1e-10, explore=False)
    assert blind.curvature is None
    assert blind.model_decrease <= result.model_decrease * (1 + 1e-12)


@pytest.mark.parametrize("tiny", [1e-3, 1e-6, 1e-9, 1e-12])
def test_the_nearly_hard_case_is_no_special_one(tiny, symmetric):
    A, g = symmetric(12, 0, low=-1.0)
    vectors = torch.linalg.eigh(A).eigenvectors
    slopes = vectors.T @ g
    slopes[0] = tiny
    g = vectors @ slopes
    result = gltr(A, g, 20.0, rtol=1e-12)
    assert model(A, g, result.solution) == pytest.approx(trust_region_value(A, g, 20.0)[0], rel=1e-7)


def test_at_zero_gradient_negative_curvature_is_followed_to_the_boundary(symmetric):
    A, _ = symmetric(30, 2, low=-3.0)
    zero = torch.zeros(30, dtype=torch.float64)
    result = gltr(A, zero, 2.0, generator=torch.Generator().manual_seed(0))
    assert result.status == "boundary"
    assert result.solution.norm().item() == pytest.approx(2.0)
    assert result.model_decrease == pytest.approx(-model(A, zero, result.solution), rel=1e-9)
    # Known to a tenth of lam ||s||, so the decrease to about a hundredth.
    assert 0.97 * 6.0 <= result.model_decrease <= 6.0 * (1 + 1e-9)
    again = gltr(A, zero, 2.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.solution, result.solution)


def test_at_zero_gradient_a_convex_model_stays(spd, counting_operator):
    A, _ = spd(50, 0)
    zero = torch.zeros(50, dtype=torch.float64)
    operator = counting_operator(A)
    result = gltr(operator, zero, 1.0, generator=torch.Generator().manual_seed(0))
    assert (result.status, result.norm, result.model_decrease, result.curvature) == ("zero_rhs", 0.0, 0.0, None)
    assert 0 < operator.products < 50
    assert gltr(operator, zero, 1.0, explore=False).products == 0


def test_a_convex_model_with_an_invariant_space_pays_little_for_the_look_around(counting_operator):
    operator = counting_operator(torch.eye(500, dtype=torch.float64))
    g = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = gltr(operator, g, 100.0)
    torch.testing.assert_close(result.solution, -g)
    assert operator.products == 2


@pytest.mark.parametrize("radius", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("kind", ["spd", "symmetric"])
def test_preconditioned_equals_the_transformed_problem(kind, radius, request, spd):
    A, g = request.getfixturevalue(kind)(20, 0)
    M, _ = spd(20, 5, condition=50.0)
    values, vectors = torch.linalg.eigh(M)
    half = vectors @ torch.diag(values**-0.5) @ vectors.T
    inverse = torch.linalg.inv(M)
    ours = gltr(A, g, radius, preconditioner=lambda r: inverse @ r, rtol=1e-11)
    plain = gltr(half @ A @ half, half @ g, radius, rtol=1e-11)
    torch.testing.assert_close(ours.solution, half @ plain.solution, rtol=1e-6, atol=1e-8)
    assert ours.model_decrease == pytest.approx(plain.model_decrease, rel=1e-8)
    assert ours.norm == pytest.approx((ours.solution @ M @ ours.solution).sqrt().item(), rel=1e-7)


def test_badly_scaled_curvature_keeps_its_small_directions():
    A = torch.diag(torch.tensor([1e9, 1.0, 1e-2], dtype=torch.float64))
    g = torch.tensor([1e3, 1.0, -1e-2], dtype=torch.float64)
    result = gltr(A, g, 1e3, rtol=1e-14)
    torch.testing.assert_close(
        result.solution, torch.tensor([-1e-6, -1.0, 1.0], dtype=torch.float64), rtol=1e-4, atol=1e-9
    )


def test_float32(symmetric):
    A, g = symmetric(100, 6, low=-1.0)
    for radius in (0.1, 10.0):
        result = gltr(A.float(), g.float(), radius, rtol=1e-4)
        assert result.solution.dtype == torch.float32
        assert model(A, g, result.solution.double()) == pytest.approx(trust_region_value(A, g, radius)[0], rel=1e-4)
        assert result.solution.norm().item() <= radius * (1 + 1e-5)


def test_the_limit_is_kept_and_said(symmetric, counting_operator):
    A, g = symmetric(40, 0)
    operator = counting_operator(A)
    result = gltr(operator, g, 10.0, rtol=1e-12, max_iter=5)
    assert (result.status, operator.products) == ("max_iter", 5)
    assert result.model_decrease == pytest.approx(-model(A, g, result.solution), rel=1e-9)
    assert gltr(operator, g, 10.0, max_iter=0).status == "max_iter"


def test_a_regularized_solve_ends_when_it_hardly_gains_and_a_newton_step_does_not(spd):
    A, g = spd(200, 0, condition=1e6)
    newton = torch.linalg.solve(A, g).norm().item()
    inside = [gltr(A, g, 2 * newton, rtol=1e-6, progress_tol=tol) for tol in (0.0, 0.03)]
    assert inside[0].products == inside[1].products
    bound, short = (gltr(A, g, 0.5 * newton, rtol=1e-6, progress_tol=tol) for tol in (0.0, 0.03))
    assert (bound.status, short.status) == ("boundary", "progress")
    assert short.products < 0.8 * bound.products
    assert short.model_decrease == pytest.approx(-model(A, g, short.solution), rel=1e-9)
    # The last window brought less than 0.3 of the decrease, the one before it not.
    earlier = gltr(A, g, 0.5 * newton, rtol=1e-6, max_iter=short.products - max(10, math.ceil(0.1 * short.products)))
    assert short.model_decrease - earlier.model_decrease < 0.3 * short.model_decrease
    space = KrylovSpace(A, g)
    gltr(A, g, 0.5 * newton, rtol=1e-6, progress_tol=0.03, space=space)
    assert gltr(A, g, 0.1 * newton, rtol=1e-6, progress_tol=0.03, space=space).products == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_zero_that_rounding_made_negative_is_not_followed_and_a_small_negative_one_is(seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    g = basis[:, 2:] @ torch.ones(4, dtype=torch.float64)  # orthogonal to the two lowest eigenvectors
    newton = (1 + 1 / 2**2 + 1 / 3**2 + 1 / 4**2) ** 0.5
    for lowest, followed in ((0.0, False), (-1e-9, True)):
        values = torch.tensor([lowest, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        A = basis @ torch.diag(values) @ basis.T
        result = gltr(0.5 * (A + A.T), g, 100.0, rtol=1e-10, generator=generator)
        assert result.at_boundary is followed
        assert result.norm == pytest.approx(100.0 if followed else newton, rel=1e-6)


def test_the_residual_of_a_space_that_does_not_begin_with_the_gradient(symmetric):
    A, g = symmetric(20, 0, low=-1.0)
    space = KrylovSpace(A, g, generator=torch.Generator().manual_seed(0), random_start=True)
    result = gltr(A, g, 0.5, rtol=0.0, max_iter=8, explore=False, space=space)
    assert result.products == 8
    assert result.residual == pytest.approx(optimality(A, g, result), rel=1e-9)
    assert -result.model_decrease == pytest.approx(model(A, g, result.solution), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [1, 4])
def test_a_product_that_is_not_finite_leaves_the_last_finite_step(bad, when, counting_operator, spd):
    A, g = spd(20, 0)
    result = gltr(counting_operator(A, poison={when: bad}), g, 1e3, rtol=1e-12)
    assert result.status == "non_finite"
    assert torch.isfinite(result.solution).all()
    assert result.solution.any() == (when > 1)
    assert gltr(A, g * bad, 1.0).status == "non_finite"


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_bad_radius_is_refused(radius, spd):
    A, g = spd(5, 0)
    with pytest.raises(ConfigError, match="radius"):
        gltr(A, g, radius)
