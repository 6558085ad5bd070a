"""Capped CG: damped solutions, and every way in which it finds negative curvature."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from hybridopt.core.errors import ConfigError
from hybridopt.linalg import capped_cg

module = sys.modules["hybridopt.linalg.capped_cg"]


def indefinite(n, seed, low, hidden=0.0):
    """Eigenvalues from `low` to 1, and a gradient that sees the negative ones by a factor 10**-hidden."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    values = torch.linspace(low, 1.0, n, dtype=torch.float64)
    slopes = torch.randn(n, dtype=torch.float64, generator=generator)
    slopes[values < 0] *= 10**-hidden
    A = basis @ torch.diag(values) @ basis.T
    return 0.5 * (A + A.T), basis @ slopes


def check_direction(A, result, epsilon):
    d = result.curvature_direction
    quotient = (d @ A @ d / (d @ d)).item()
    assert result.status == "negative_curvature"
    assert quotient < -epsilon
    assert result.curvature == pytest.approx(quotient, rel=1e-8)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_definite_operator_gives_the_damped_solution(seed, epsilon, spd, counting_operator):
    A, g = spd(30, seed)
    operator = counting_operator(A)
    result = capped_cg(operator, g, epsilon, zeta=0.5)
    damped = A + 2 * epsilon * torch.eye(30, dtype=torch.float64)
    bound = torch.linalg.eigvalsh(A)[-1].item()
    kappa = (bound + 2 * epsilon) / epsilon
    assert result.status == "converged"
    r = g + damped @ result.solution
    assert r.norm().item() == pytest.approx(result.residual, rel=1e-5, abs=1e-13)
    # M is at most the norm of A, so the tolerance is at least this (or rounding).
    assert result.residual <= max(0.5 / 3 * 3 * 30 / kappa, 1e-14) * g.norm().item()
    assert result.products == operator.products
    x = result.solution
    assert result.model_decrease == pytest.approx(-(g @ x + 0.5 * x @ damped @ x).item(), rel=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_of_the_norm_is_the_largest_ratio_met(seed, spd):
    # With a norm bound from outside that is larger, the tolerance is tighter.
    A, g = spd(30, seed)
    loose, tight = capped_cg(A, g, 1e-2), capped_cg(A, g, 1e-2, bound=1e6)
    assert tight.residual < loose.residual
    assert tight.iterations > loose.iterations


def literal(H, g, epsilon, zeta):
    """Algorithm 1 of the paper, line by line, without the last test; returns source, d, iterations, M."""
    n = len(g)
    damped = H + 2 * epsilon * torch.eye(n, dtype=torch.float64)
    y, r, p, M = torch.zeros_like(g), g.clone(), -g, 0.0
    if p @ damped @ p < epsilon * p @ p:
        return "direction", p, 0, float((H @ p).norm() / p.norm())
    M = float((H @ p).norm() / p.norm())
    for j in range(1, 10 * n):
        alpha = r @ r / (p @ damped @ p)
        y, after = y + alpha * p, r + alpha * damped @ p
        p, r = -after + (after @ after) / (r @ r) * p, after
        M = max(M, *(float((H @ v).norm() / v.norm()) for v in (p, y, r)))
        kappa = (M + 2 * epsilon) / epsilon
        if y @ damped @ y < epsilon * y @ y:
            return "iterate", y, j, M
        if r.norm() <= zeta / (3 * kappa) * g.norm():
            return None, y, j, M
        if p @ damped @ p < epsilon * p @ p:
            return "direction", p, j, M
    raise AssertionError("no end")


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_algorithm_of_the_paper(seed):
    # Lowest eigenvalues on both sides of -epsilon and -2 epsilon, and gradients whose largest ratio |Hv| / |v| is not
    # that of a search direction.
    epsilon = 0.05
    A, g = indefinite(8, seed, low=(-0.3, -0.09, -0.06, -0.04)[seed % 4], hidden=seed / 10)
    source, d, iterations, M = literal(A, g, epsilon, 0.5)
    run = module._Run(A, g, float(g @ g), epsilon, 0.5, 0.0)
    run.iterate(100)
    result = run.result
    assert (result.curvature_source, result.iterations) == (source, iterations)
    torch.testing.assert_close(
        result.solution if source is None else result.curvature_direction, d, rtol=1e-6, atol=1e-9
    )
    if iterations < 8:  # after as many as there are dimensions the residual is rounding, and its ratio too
        assert run.cap.bound == pytest.approx(M, rel=1e-9)


def test_the_search_direction_shows_negative_curvature_at_once():
    A = torch.diag(torch.tensor([-1.0, -2.0, 1.0], dtype=torch.float64))
    g = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    result = capped_cg(A, g, 1e-3)
    check_direction(A, result, 1e-3)
    assert (result.curvature_source, result.products, result.iterations) == ("direction", 1, 0)
    torch.testing.assert_close(result.curvature_direction, -g)


@pytest.mark.parametrize("hidden", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(10))
def test_directions_and_iterates_have_negative_curvature_in_the_undamped_operator(seed, hidden):
    A, g = indefinite(40, seed, low=-0.6, hidden=hidden)
    for epsilon in (1e-4, 1e-2, 0.2):
        result = capped_cg(A, g, epsilon)
        if result.status == "negative_curvature":
            check_direction(A, result, epsilon)
            assert result.curvature_source in ("direction", "iterate")
        else:
            assert result.status == "converged"
            damped = A + 2 * epsilon * torch.eye(40, dtype=torch.float64)
            assert (g + damped @ result.solution).norm().item() == pytest.approx(result.residual, rel=1e-5, abs=1e-12)


def test_the_iterate_shows_it_before_the_direction_does():
    # Many eigenvalues close above the lowest: the sum of the directions leans to them more than any one does.
    epsilon, seen = 0.01, 0
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(100, 100, dtype=torch.float64, generator=generator))[0]
        values = -2 * epsilon + torch.rand(100, dtype=torch.float64, generator=generator) ** 3
        A = basis @ torch.diag(values) @ basis.T
        result = capped_cg(A, torch.randn(100, dtype=torch.float64, generator=generator), epsilon)
        if result.curvature_source == "iterate":
            seen += 1
            check_direction(A, result, epsilon)
            torch.testing.assert_close(result.curvature_direction, result.solution)
    assert seen > 0


def test_the_pair_of_iterates_when_the_residual_falls_too_slowly(monkeypatch):
    # No spectrum is known on which this test fires before the others, so here every decrease is too slow.
    monkeypatch.setattr(module._Cap, "too_slow", lambda self, relative_residual, iteration: True)
    sources = []
    for seed in range(300):
        A, g = indefinite(30, seed, low=-0.3, hidden=seed / 100)
        result = capped_cg(A, g, 0.1)
        sources.append(result.curvature_source)
        if result.curvature_source == "pair":
            check_direction(A, result, 0.1)
            assert torch.isfinite(result.solution).all()
    assert sources.count("pair") >= 3


@pytest.mark.parametrize("bound", [0.5, 1e3])
@pytest.mark.parametrize("epsilon", [1e-3, 1.0])
def test_the_bound_on_the_residual_is_the_papers(bound, epsilon):
    cap = module._Cap(bound, epsilon, 0.5, 0.0)
    kappa = (bound + 2 * epsilon) / epsilon
    tau = math.sqrt(kappa) / (math.sqrt(kappa) + 1)
    T = 4 * kappa**4 / (1 - math.sqrt(tau)) ** 2
    assert cap.tolerance == pytest.approx(0.5 / (3 * kappa))
    for j in (0, 10, 400):
        level = math.sqrt(T) * tau ** (j / 2)
        assert cap.too_slow(1.001 * level, j)
        assert not cap.too_slow(0.999 * level, j)


def test_a_positive_definite_operator_never_falls_too_slowly(monkeypatch, spd):
    verdicts = []
    original = module._Cap.too_slow

    def spy(self, relative_residual, iteration):
        verdicts.append(original(self, relative_residual, iteration))
        return verdicts[-1]

    monkeypatch.setattr(module._Cap, "too_slow", spy)
    for seed in range(3):
        assert capped_cg(*spd(60, seed, condition=1e4), 1.0).status == "converged"
    assert verdicts
    assert not any(verdicts)


def test_float32():
    A, g = indefinite(40, 0, low=-0.6)
    result = capped_cg(A.float(), g.float(), 1e-2)
    d = result.curvature_direction.double()
    assert d @ A @ d < -0.9e-2 * (d @ d)


def test_ends_without_an_answer(spd, counting_operator):
    A, g = spd(20, 0, condition=1e4)
    operator = counting_operator(A)
    assert capped_cg(operator, torch.zeros(20), 1e-2).status == "zero_rhs"
    assert capped_cg(operator, g * math.nan, 1e-2).status == "non_finite"
    assert operator.products == 0
    limited = capped_cg(operator, g, 1e-6, max_iter=4)
    assert (limited.status, operator.products, limited.iterations) == ("max_iter", 4, 4)
    for when in (1, 5):
        broken = capped_cg(counting_operator(A, poison={when: math.inf}), g, 1e-6)
        assert broken.status == "non_finite"
        assert torch.isfinite(broken.solution).all()
        assert broken.iterations == when - 1


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"zeta": 1.0}, {"bound": -1.0}, {"max_iter": -1}]
)
def test_bad_options_are_refused(options, spd):
    with pytest.raises(ConfigError):
        capped_cg(*spd(5, 0), **({"epsilon": 1e-3} | options))
