"""Diagonal, trace, log-determinant and spectral density of an operator that is known by its products."""

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
_DIAGONAL = ("hutchinson", "xdiag")
_TRACE = ("hutch++", "xtrace", "hutchinson")


def rademacher(operator: SymmetricOperator, count: int, generator: torch.Generator | None) -> Tensor:
    """Returns random signs.

    Args:
        operator: Gives size, dtype and device.
        count: Number of columns.
        generator: Where they come from (a CPU generator serves every device).

    Returns:
        Shape (n, count), entries -1 and 1 with equal probability.
    """
    bits = torch.randint(0, 2, (operator.n, count), generator=generator, dtype=torch.int8, device="cpu")
    return (2 * bits - 1).to(operator.device, operator.dtype)


def diagonal(
    operator: SymmetricOperator,
    samples: int | None = None,
    *,
    method: str = "hutchinson",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the diagonal of an operator.

    Args:
        operator: The matrix.
        samples: None for the exact diagonal by n products; otherwise an estimate from at most that many products.
        method: ``"hutchinson"``, the estimate of Bekas, Kokiopoulou and Saad 2007 from products with random signs
            (unbiased; its error falls as samples**-0.5), or ``"xdiag"`` (Epperly, Tropp and Webber 2024, section 2.4;
            unbiased, exact where the rank is below samples / 2 or n is at most samples, and far better where the
            spectrum decays).
        generator: Where the probes come from.

    Returns:
        Shape (n,).

    Raises:
        ConfigError: If `samples` is not positive (XDiag: less than 2), or the method is unknown.
    """
    if method not in _DIAGONAL:
        raise ConfigError(f"method must be one of {', '.join(map(repr, _DIAGONAL))}, not {method!r}.")
    if samples is None:
        out = torch.empty(operator.n, dtype=operator.dtype, device=operator.device)
        for start in range(0, operator.n, _BLOCK):
            index = torch.arange(start, min(start + _BLOCK, operator.n), device=operator.device)
            columns = torch.zeros(operator.n, len(index), dtype=operator.dtype, device=operator.device)
            columns[index, index - start] = 1
            out[index] = (operator @ columns)[index, index - start]
        return out
    _positive(samples)
    if method == "xdiag":
        _at_least_two(samples)
        return diagonal(operator) if samples >= operator.n else _xdiag(operator, samples, generator)
    probes = rademacher(operator, samples, generator)
    return (probes * (operator @ probes)).mean(dim=1)


def trace(
    operator: SymmetricOperator,
    samples: int | None = None,
    *,
    method: str = "hutch++",
    generator: torch.Generator | None = None,
) -> float:
    """Returns the trace of an operator.

    Args:
        operator: The matrix.
        samples: None for the exact trace by n products; otherwise an estimate from at most that many products.
        method: ``"hutch++"`` (Meyer, Musco, Musco and Woodruff 2021): a third of the products finds a range, whose
            trace is exact, the rest estimates the remainder. ``"xtrace"`` (Epperly, Tropp and Webber 2024, section
            2.1): half of the products finds a range, and every probe serves both purposes, leaving out itself; the
            best of the three where the spectrum decays. ``"hutchinson"``: random signs alone.
        generator: Where the probes come from.

    Raises:
        ConfigError: If `samples` is less than 3 (XTrace: 2, Hutchinson: 1), or the method is unknown.
    """
    if method not in _TRACE:
        raise ConfigError(f"method must be one of {', '.join(map(repr, _TRACE))}, not {method!r}.")
    if samples is None:
        return float(diagonal(operator).double().sum())
    if method == "hutchinson":
        return float(diagonal(operator, samples, generator=generator).double().sum())
    if method == "xtrace":
        _at_least_two(samples)
        return trace(operator) if samples >= operator.n else _xtrace(operator, samples, generator)
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
    node, weight = _quadrature(operator, probes, steps, generator)
    low, high = float(node.min()), float(node.max())
    spread = max(high - low, 1e-12 * max(abs(low), abs(high))) or 1e-12
    sigma = spread / 100
    if isinstance(points, int):
        points = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64, device="cpu")
    points = points.double().cpu()
    scaled = (points[:, None] - node[None, :]) / sigma
    density = (torch.exp(-0.5 * scaled.square()) * weight).sum(dim=1) / (sigma * math.sqrt(2 * math.pi))
    return points, density


def log_determinant(
    operator: SymmetricOperator,
    samples: int | None = None,
    *,
    shift: float = 0.0,
    steps: int = 30,
    generator: torch.Generator | None = None,
) -> float:
    """Returns the logarithm of the determinant of a positive definite operator, shifted by a multiple of the identity.

    Args:
        operator: The matrix A.
        samples: None for the exact value by n products; otherwise the estimate by stochastic Lanczos quadrature
            (Ubaru, Chen and Saad 2017) from that many random vectors, each of at most `steps` products. It is unbiased
            up to the error of the quadrature, which falls geometrically in the steps, the slower the larger the
            condition number.
        shift: The determinant is that of A + shift I.
        steps: Lanczos steps for each vector.
        generator: Where the vectors come from.

    Raises:
        ConfigError: If `samples` or `steps` is not positive, or A + shift I is seen not to be positive definite.
        NonFiniteError: If a product is not finite.
    """
    if samples is None:
        dense = operator.dense().double()
        if not dense.isfinite().all():
            raise NonFiniteError("The operator's products are not finite, so it has no determinant.")
        values, weights = torch.linalg.eigvalsh(dense), 1.0
    else:
        _positive(samples)
        _positive(steps)
        values, weights = _quadrature(operator, samples, steps, generator)
        weights = operator.n * weights
    values = values + shift
    # A singular matrix has eigenvalues of either sign, to rounding.
    lowest, largest = float(values.min()), float(values.abs().max())
    if lowest <= torch.finfo(operator.dtype).eps * largest:
        raise ConfigError(
            f"The logarithm of a determinant needs a positive definite matrix, and this one has {lowest:.3g} among its "
            f"eigenvalues up to {largest:.3g}. Add a multiple of the identity: "
            f"shift={max(1e-3 * largest, -2 * lowest):.1g}."
        )
    return float((weights * values.log()).sum())


def _quadrature(
    operator: SymmetricOperator, probes: int, steps: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Nodes and weights (of sum 1) of the mean spectral measure of random vectors, float64 on the CPU."""
    nodes, weights = [], []
    for probe in rademacher(operator, probes, generator).T:
        result = lanczos(operator, probe.contiguous(), min(steps, operator.n))
        if result.status == KrylovStatus.NON_FINITE:
            raise NonFiniteError("The operator's products are not finite, so it has no spectral density.")
        nodes.append(result.ritz_values)
        weights.append(result.coefficients[0].square() / probes)
    return torch.cat(nodes), torch.cat(weights)


def _ranges(
    operator: SymmetricOperator, samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the leave-one-out estimators share.

    Returns:
        Probes W (n, k), products Y = A W, an orthonormal basis Q of their range, A Q, and S: range(Y without column i)
        is the part of range(Q) orthogonal to Q s_i. Where the others span column i too, s_i is zero.
    """
    probes = rademacher(operator, samples // 2, generator)
    products = operator @ probes
    left, values, right = torch.linalg.svd(products, full_matrices=False)
    eps = torch.finfo(operator.dtype).eps
    rank = int((values > 10 * products.shape[1] * eps * values[0]).sum())
    basis, values, right = left[:, :rank], values[:rank], right[:rank]
    # Rows of the pseudo-inverse of Q'Y = diag(values) right: each is orthogonal to all columns but its own.
    spares = right / values[:, None]
    spares = spares / torch.linalg.vector_norm(spares, dim=0).clamp(min=torch.finfo(operator.dtype).tiny)
    alone = right.square().sum(0) > 1 - eps**0.5
    return probes, products, basis, operator @ basis, spares * alone


def _xtrace(operator: SymmetricOperator, samples: int, generator: torch.Generator | None) -> float:
    probes, products, basis, images, spares = (t.double() for t in _ranges(operator, samples, generator))
    small = basis.T @ images
    coordinates = basis.T @ probes
    kept = coordinates - spares * (spares * coordinates).sum(0)
    exact = small.trace() - (spares * (small @ spares)).sum(0)
    rest = (probes * products).sum(0) - 2 * (kept * (images.T @ probes)).sum(0) + (kept * (small @ kept)).sum(0)
    return float((exact + rest).mean())


def _xdiag(operator: SymmetricOperator, samples: int, generator: torch.Generator | None) -> Tensor:
    probes, products, basis, images, spares = _ranges(operator, samples, generator)
    exact = (basis * images).sum(1) - ((basis @ spares) * (images @ spares)).mean(1)
    # What A W has beyond the range without its own column is along Q s_i.
    beyond = (basis @ spares) * (spares * (basis.T @ products)).sum(0)
    return exact + (probes * beyond).mean(1)


def _at_least_two(samples: int) -> None:
    if samples < 2:
        raise ConfigError(f"XTrace and XDiag need at least 2 products, not {samples}.")


def _positive(count: int) -> None:
    if count < 1:
        raise ConfigError(f"The number of products must be at least 1, not {count}.")
