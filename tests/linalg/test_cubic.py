"""The cubic-regularized model against dense solutions, its hard case, and the basis used again."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import KrylovSpace, cubic_minimize
from tests.linalg.dense_models import cubic_value


def model(A, g, s, sigma):
    return (g @ s + 0.5 * s @ (A @ s)).item() + sigma / 3 * s.norm().item() ** 3


@pytest.mark.parametrize("sigma", [1e-8, 1e-2, 1.0, 1e4, 1e12])
@pytest.mark.parametrize("low", [1.0, 0.0, -1e-8, -1.0, -100.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_global_minimiser(seed, low, sigma, symmetric):
    A, g = symmetric(25, seed, low=low)
    value, multiplier = cubic_value(A, g, sigma)
    result = cubic_minimize(A, g, sigma, rtol=1e-11)
    s = result.solution
    assert model(A, g, s, sigma) == pytest.approx(value, rel=1e-8)
    assert -result.model_decrease == pytest.approx(value, rel=1e-8)
    assert result.multiplier == pytest.approx(sigma * s.norm().item(), rel=1e-9)
    assert result.multiplier == pytest.approx(multiplier, rel=1e-6)
    assert (g + A @ s + result.multiplier * s).norm().item() <= 1e-8 * (g.norm().item() + result.multiplier * s.norm())
    assert result.status == "converged"
    assert not result.at_boundary


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_hard_case_has_the_length_that_the_lowest_eigenvalue_wants(scale):
    A = torch.diag(torch.tensor([-2.0, -1.0, 1.0, 3.0], dtype=torch.float64)) * scale
    g = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64) * scale
    sigma = 0.5 * scale
    result = cubic_minimize(A, g, sigma, rtol=1e-10, generator=torch.Generator().manual_seed(0))
    assert result.solution.norm().item() == pytest.approx(4.0)
    assert model(A, g, result.solution, sigma) == pytest.approx(cubic_value(A, g, sigma)[0], rel=1e-8)
    assert result.curvature == pytest.approx(-2.0 * scale)


def test_at_zero_gradient_it_goes_down_where_it_can(symmetric, spd):
    A, _ = symmetric(30, 0, low=-3.0)
    zero = torch.zeros(30, dtype=torch.float64)
    result = cubic_minimize(A, zero, 0.5, generator=torch.Generator().manual_seed(0))
    best = 3.0**3 / (6 * 0.5**2)
    assert 0.9 * best <= result.model_decrease <= best * (1 + 1e-9)
    assert result.model_decrease == pytest.approx(-model(A, zero, result.solution, 0.5), rel=1e-8)
    convex = cubic_minimize(spd(30, 0)[0], zero, 0.5)
    assert (convex.status, convex.norm, convex.model_decrease) == ("zero_rhs", 0.0, 0.0)


def test_another_sigma_on_the_same_space_needs_no_products(symmetric, counting_operator):
    A, g = symmetric(40, 3, low=-1.0)
    operator = counting_operator(A)
    space = KrylovSpace(operator, g)
    cubic_minimize(operator, g, 0.5, rtol=1e-10, space=space)
    spent = operator.products
    for sigma in (1.0, 30.0, 1e6):
        again = cubic_minimize(operator, g, sigma, rtol=1e-10, space=space)
        assert -again.model_decrease == pytest.approx(cubic_value(A, g, sigma)[0], rel=1e-8)
    assert operator.products == spent


def test_early_stop_keeps_the_reported_decrease_and_residual_true(spd):
    A, g = spd(60, 0, condition=1e4)
    result = cubic_minimize(A, g, 0.1, rtol=0.05)
    s = result.solution
    assert result.products < 60
    assert result.residual <= 0.05 * g.norm().item()
    assert (g + A @ s + result.multiplier * s).norm().item() == pytest.approx(result.residual, rel=1e-7)
    assert result.model_decrease == pytest.approx(-model(A, g, s, 0.1), rel=1e-9)


def test_preconditioned_equals_the_transformed_problem(symmetric, spd):
    A, g = symmetric(20, 0)
    M, _ = spd(20, 5, condition=50.0)
    values, vectors = torch.linalg.eigh(M)
    half = vectors @ torch.diag(values**-0.5) @ vectors.T
    inverse = torch.linalg.inv(M)
    ours = cubic_minimize(A, g, 2.0, preconditioner=lambda r: inverse @ r, rtol=1e-11)
    plain = cubic_minimize(half @ A @ half, half @ g, 2.0, rtol=1e-11)
    torch.testing.assert_close(ours.solution, half @ plain.solution, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_bad_sigma_is_refused(sigma, spd):
    A, g = spd(5, 0)
    with pytest.raises(ConfigError, match="sigma"):
        cubic_minimize(A, g, sigma)
