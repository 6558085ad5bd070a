"""Diagonal, trace and spectral density of an operator that is known by its products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.core import ConfigError, NonFiniteError
from hybridopt.linalg.lanczos import lanczos
from hybridopt.linalg.result import KrylovStatus

if TYPE_CHECKING:
    from hybridopt.linalg.operator import SymmetricOperator

_BLOCK = 64


def rademacher(operator: SymmetricOperator, count: int, generator: torch.Generator | None) -> Tensor:
    """Returns random signs.

    Args:
        operator: Gives size, dtype and device.
        count: Number of columns.
        generator: Where they come from (a CPU generator serves every device).

    Returns:
        Shape (n, count), entries -1 and 1 with equal probability.
    """
    bits = torch.randint(0, 2, (operator.n, count), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(operator.device, operator.dtype)


def diagonal(
    operator: SymmetricOperator, samples: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """Returns the diagonal of an operator.

    Args:
        operator: The matrix.
        samples: None for the exact diagonal by n products; otherwise the estimate of Bekas, Kokiopoulou and Saad
            2007 from that many products with random signs (unbiased; its error falls as samples**-0.5).
        generator: Where the probes come from.

    Returns:
        Shape (n,).

    Raises:
        ConfigError: If `samples` is not positive.
    """
    if samples is None:
        out = torch.empty(operator.n, dtype=operator.dtype, device=operator.device)
        for start in range(0, operator.n, _BLOCK):
            index = torch.arange(start, min(start + _BLOCK, operator.n), device=operator.device)
            columns = torch.zeros(operator.n, len(index), dtype=operator.dtype, device=operator.device)
            columns[index, torch.arange(len(index))] = 1
            out[index] = (operator @ columns)[index, torch.arange(len(index))]
        return out
    _positive(samples)
    probes = rademacher(operator, samples, generator)
    return (probes * (operator @ probes)).mean(dim=1)


def trace(
    operator: SymmetricOperator, samples: int | None = None, *, generator: torch.Generator | None = None
) -> float:
    """Returns the trace of an operator.

    Args:
        operator: The matrix.
        samples: None for the exact trace by n products; otherwise the Hutch++ estimate (Meyer, Musco, Musco and
            Woodruff 2021) from that many products: a third finds a range, whose trace is exact, the rest estimates
            the remainder.
        generator: Where the probes come from.

    Raises:
        ConfigError: If `samples` is less than 3.
    """
    if samples is None:
        return float(diagonal(operator).double().sum())
    if samples < 3:
        raise ConfigError(f"Hutch++ needs at least 3 products, not {samples}.")
    third = samples // 3
    basis = torch.linalg.qr(operator @ rademacher(operator, third, generator)).Q
    probes = rademacher(operator, samples - 2 * third, generator)
    probes = probes - basis @ (basis.T @ probes)
    exact = (basis * (operator @ basis)).double().sum()
    rest = (probes * (operator @ probes)).double().sum() / probes.shape[1]
    return float(exact + rest)


def spectral_density(
    operator: SymmetricOperator,
    points: Tensor | int = 1024,
    *,
    probes: int = 10,
    steps: int = 80,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the smoothed density of the eigenvalues by stochastic Lanczos quadrature (Lin, Saad and Yang 2016).

    Args:
        operator: The matrix.
        points: Where to evaluate the density, or how many equidistant points to choose.
        probes: Number of random start vectors.
        steps: Lanczos steps for each of them.
        generator: Where the probes come from.

    Returns:
        The points and the density at them, both float64 of shape (points,); it integrates to 1.

    Raises:
        ConfigError: If `probes` or `steps` is not positive.
        NonFiniteError: If a product is not finite.
    """
    _positive(probes)
    _positive(steps)
    nodes, weights = [], []
    for probe in rademacher(operator, probes, generator).T:
        result = lanczos(operator, probe.contiguous(), min(steps, operator.n))
        if result.status == KrylovStatus.NON_FINITE:
            raise NonFiniteError("The operator's products are not finite, so it has no spectral density.")
        tridiagonal = torch.diag(result.alphas)
        off = result.betas[: len(result.alphas) - 1]
        tridiagonal += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        nodes.append(values)
        weights.append(vectors[0].square() / probes)
    node, weight = torch.cat(nodes).cpu(), torch.cat(weights).cpu()
    low, high = float(node.min()), float(node.max())
    spread = max(high - low, 1e-12 * max(abs(low), abs(high), 1.0))
    sigma = spread / 100
    if isinstance(points, int):
        points = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    points = points.double().cpu()
    scaled = (points[:, None] - node[None, :]) / sigma
    density = (torch.exp(-0.5 * scaled.square()) * weight).sum(dim=1) / (sigma * math.sqrt(2 * math.pi))
    return points, density


def _positive(count: int) -> None:
    if count < 1:
        raise ConfigError(f"The number of products must be at least 1, not {count}.")
