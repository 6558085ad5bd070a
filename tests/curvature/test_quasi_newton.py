"""Quasi-Newton operators: compact form = recursion = dense, secant equation, inverses, spectrum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridopt.core import ConfigError
from hybridopt.curvature import FactoredBFGS, LimitedBFGS, LimitedSR1
from hybridopt.optimizers.lbfgs_memory import PairMemory

N = 8
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def pairs(count: int, seed: int = 0, *, definite: bool = True) -> tuple[Tensor, Tensor]:
    """Steps and changes of a quadratic, a little disturbed."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(N, N, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(N, dtype=torch.float64)
    if not definite:
        hessian = 0.5 * (root + root.T)
    steps = torch.randn(count, N, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, N, generator=generator, dtype=torch.float64)
    return steps, steps @ hessian + 0.02 * noise


def bfgs_recursion(steps: Tensor, changes: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """B by Nocedal and Wright 2006, eq. 6.19, and H by eq. 6.17, from I / gamma."""
    identity = torch.eye(N, dtype=torch.float64)
    b, h = identity / gamma, identity * gamma
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (s @ y)
        b = b - torch.outer(b @ s, b @ s) / (s @ b @ s) + rho * torch.outer(y, y)
        left = identity - rho * torch.outer(s, y)
        h = left @ h @ left.T + rho * torch.outer(s, s)
    return b, h


def sr1_recursion(steps: Tensor, changes: Tensor, sigma: float) -> Tensor:
    """Nocedal and Wright 2006, eq. 6.24."""
    b = sigma * torch.eye(N, dtype=torch.float64)
    for s, y in zip(steps, changes, strict=True):
        r = y - b @ s
        b = b + torch.outer(r, r) / (r @ s)
    return b


@pytest.mark.parametrize("count", [0, 1, 3, N, N + 4])
@pytest.mark.parametrize("gamma", [1.0, 0.03])
def test_compact_bfgs_equals_the_recursion(count: int, gamma: float) -> None:
    steps, changes = pairs(count)
    direct, inverse = bfgs_recursion(steps, changes, gamma)
    operator = LimitedBFGS(steps, changes, gamma=gamma)
    torch.testing.assert_close(operator.dense(), direct, **CLOSE)
    torch.testing.assert_close(operator.inverse().dense(), inverse, **CLOSE)
    torch.testing.assert_close(operator.inverse().inverse().dense(), direct, **CLOSE)


def test_compact_inverse_equals_the_two_loops_of_the_optimizer() -> None:
    steps, changes = pairs(11)
    memory = PairMemory({}, 5, N, dtype=torch.float64, device=torch.device("cpu"))
    for s, y in zip(steps, changes, strict=True):
        memory.push(s, y, damping=False)
    operator = LimitedBFGS(*memory.pairs(), gamma=memory.gamma, inverse=True)
    for vector in torch.eye(N, dtype=torch.float64):
        torch.testing.assert_close(operator @ vector, memory.inverse_product(vector), **CLOSE)


@pytest.mark.parametrize("count", [0, 1, 3, 6])
@pytest.mark.parametrize("sigma", [1.0, 20.0, -0.7])
@pytest.mark.parametrize("definite", [True, False])
def test_compact_sr1_equals_the_recursion(count: int, sigma: float, definite: bool) -> None:
    steps, changes = pairs(count, definite=definite)
    expected = sr1_recursion(steps, changes, sigma)
    operator = LimitedSR1(steps, changes, sigma=sigma)
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(operator.inverse().dense(), torch.linalg.inv(expected), rtol=1e-6, atol=1e-7)
    assert operator.positive_semidefinite == bool((torch.linalg.eigvalsh(expected) >= 0).all())


def test_the_spectrum_of_sr1_is_that_of_the_dense_matrix() -> None:
    steps, changes = pairs(4, definite=False)
    operator = LimitedSR1(steps, changes, sigma=0.5)
    expected = torch.linalg.eigvalsh(sr1_recursion(steps, changes, 0.5))
    values = torch.cat([operator.values, torch.full((N - 4,), 0.5, dtype=torch.float64)]).sort().values
    torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-9)
    gram = operator.basis.T @ operator.basis
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_secant_equation_of_the_newest_pair_and_for_sr1_on_a_quadratic_of_all() -> None:
    steps, changes = pairs(5)
    torch.testing.assert_close(LimitedBFGS(steps, changes, gamma=0.2) @ steps[-1], changes[-1], **CLOSE)
    torch.testing.assert_close(LimitedBFGS(steps, changes, gamma=0.2, inverse=True) @ changes[-1], steps[-1], **CLOSE)
    torch.testing.assert_close(LimitedSR1(steps, changes, sigma=2.0) @ steps[-1], changes[-1], **CLOSE)
    hessian = torch.diag(torch.tensor([-3.0, -1.0, 0.1, 1.0, 2.0, 5.0, 7.0, 30.0], dtype=torch.float64))
    exact = LimitedSR1(steps, steps @ hessian, sigma=2.0)
    for s in steps:
        torch.testing.assert_close(exact @ s, hessian @ s, rtol=1e-7, atol=1e-8)


def test_an_sr1_update_without_a_denominator_is_left_out_and_the_rest_stays() -> None:
    steps, changes = pairs(3)
    s, t = steps[0], steps[1]
    orthogonal = t - (t @ s) / (s @ s) * s
    # y - B s is orthogonal to s: nothing to divide by.
    bad = 2.0 * s + orthogonal
    operator = LimitedSR1(torch.stack([s, steps[2]]), torch.stack([bad, changes[2]]), sigma=2.0)
    assert operator.skipped == 1
    torch.testing.assert_close(operator.dense(), sr1_recursion(steps[2:], changes[2:], 2.0), **CLOSE)
    # A pair that B already satisfies changes nothing.
    again = LimitedSR1(torch.stack([s, s]), torch.stack([changes[0], changes[0]]), sigma=2.0)
    assert again.skipped == 1
    torch.testing.assert_close(again.dense(), sr1_recursion(steps[:1], changes[:1], 2.0), **CLOSE)


def test_sr1_copes_with_pairs_of_very_different_length() -> None:
    steps, changes = pairs(4)
    scales = torch.tensor([1e-6, 1.0, 1e5, 1e-2], dtype=torch.float64)[:, None]
    operator = LimitedSR1(scales * steps, scales * changes, sigma=3.0)
    torch.testing.assert_close(operator.dense(), sr1_recursion(steps, changes, 3.0), rtol=1e-6, atol=1e-7)


def test_factored_bfgs_is_the_factor_times_its_transpose() -> None:
    factor = torch.randn(N, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    factor += 4 * torch.eye(N, dtype=torch.float64)
    inverse = FactoredBFGS(factor, inverse=True)
    torch.testing.assert_close(inverse.dense(), factor @ factor.T, **CLOSE)
    torch.testing.assert_close(inverse.inverse().dense(), torch.linalg.inv(factor @ factor.T), **CLOSE)


def test_they_are_operators_like_the_others() -> None:
    steps, changes = pairs(3)
    operator = LimitedBFGS(steps.float(), changes.float(), gamma=0.5)
    shifted = operator + 0.1 * LimitedSR1(steps.float(), changes.float())
    assert shifted.shape == (N, N)
    vectors = torch.randn(N, 2)
    torch.testing.assert_close(shifted @ vectors, shifted.dense() @ vectors, rtol=1e-4, atol=1e-4)
    assert float(operator.eigsh(1, which="SA")[0]) > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda s, y: LimitedSR1(s, y[:2]),
        lambda s, y: LimitedBFGS(s, -y),
        lambda s, y: LimitedBFGS(s, y, gamma=-1.0),
        lambda s, y: LimitedSR1(s, y, sigma=0.0),
    ],
    ids=["shape", "curvature", "gamma", "sigma"],
)
def test_bad_pairs_are_refused(build: Callable[[Tensor, Tensor], object]) -> None:
    with pytest.raises(ConfigError):
        build(*pairs(3))
