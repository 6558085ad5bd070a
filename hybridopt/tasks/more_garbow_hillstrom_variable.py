"""Residuals of the test functions of More, Garbow and Hillstrom (1981) that exist in any dimension.

As in `more_garbow_hillstrom`: x, shape (n,), to the residuals, shape (m,); numbers in docstrings are the paper's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridopt.tasks.more_garbow_hillstrom import counter


def watson(x: Tensor) -> Tensor:
    """Watson's, 20, 2 <= n <= 31."""
    t = counter(x, 29) / 29
    powers = t[:, None] ** counter(x, x.numel() - 1, 0)
    polynomial = powers @ x
    derivative = powers[:, :-1] @ (counter(x, x.numel() - 1) * x[1:])
    return torch.cat([derivative - polynomial**2 - 1, torch.stack([x[0], x[1] - x[0] ** 2 - 1])])


def penalty_1(x: Tensor) -> Tensor:
    """Penalty function I, 23."""
    return torch.cat([math.sqrt(1e-5) * (x - 1), (x @ x - 0.25).reshape(1)])


def penalty_2(x: Tensor) -> Tensor:
    """Penalty function II, 24."""
    n = x.numel()
    i = counter(x, n)
    grown, reference = torch.exp(x / 10), torch.exp(i / 10)
    pairs = grown[1:] + grown[:-1] - reference[1:] - reference[:-1]
    rest = math.sqrt(1e-5) * torch.cat([pairs, grown[1:] - math.exp(-0.1)])
    weighted = ((n + 1 - i) * x * x).sum() - 1
    return torch.cat([x[:1] - 0.2, rest, weighted.reshape(1)])


def variably_dimensioned(x: Tensor) -> Tensor:
    """The variably dimensioned function, 25."""
    total = (counter(x, x.numel()) * (x - 1)).sum()
    return torch.cat([x - 1, torch.stack([total, total * total])])


def trigonometric(x: Tensor) -> Tensor:
    """The trigonometric function, 26."""
    cosine = torch.cos(x)
    return x.numel() - cosine.sum() + counter(x, x.numel()) * (1 - cosine) - torch.sin(x)


def brown_almost_linear(x: Tensor) -> Tensor:
    """Brown's almost linear one, 27."""
    return torch.cat([x[:-1] + x.sum() - (x.numel() + 1), (x.prod() - 1).reshape(1)])


def discrete_boundary_value(x: Tensor) -> Tensor:
    """The discretised boundary value problem, 28."""
    n = x.numel()
    h = 1 / (n + 1)
    padded = torch.nn.functional.pad(x, (1, 1))
    return 2 * x - padded[:-2] - padded[2:] + h * h * (x + h * counter(x, n) + 1) ** 3 / 2


def discrete_integral_equation(x: Tensor) -> Tensor:
    """The discretised integral equation, 29."""
    n = x.numel()
    h = 1 / (n + 1)
    t = h * counter(x, n)
    cubes = (x + t + 1) ** 3
    below = torch.cumsum(t * cubes, dim=0)
    weighted = (1 - t) * cubes
    above = weighted.sum() - torch.cumsum(weighted, dim=0)
    return x + h * ((1 - t) * below + t * above) / 2


def broyden_tridiagonal(x: Tensor) -> Tensor:
    """Broyden's tridiagonal function, 30."""
    padded = torch.nn.functional.pad(x, (1, 1))
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def broyden_banded(x: Tensor) -> Tensor:
    """Broyden's banded function, 31."""
    terms = torch.nn.functional.pad(x * (1 + x), (5, 1))
    # Five neighbours below and one above, without the parameter itself.
    band = terms.unfold(0, 7, 1).sum(dim=1) - x * (1 + x)
    return x * (2 + 5 * x * x) + 1 - band


def chebyquad(x: Tensor) -> Tensor:
    """Chebyquad, 35, with as many residuals as parameters."""
    n = x.numel()
    y = 2 * x - 1
    before, now = torch.ones_like(x), y
    rows = []
    for i in range(1, n + 1):
        integral = 0.0 if i % 2 else -1 / (i * i - 1)
        rows.append(now.mean() - integral)
        before, now = now, 2 * y * now - before
    return torch.stack(rows)
