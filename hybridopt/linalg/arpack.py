"""Eigenpairs of a symmetric operator by SciPy's implicitly restarted Lanczos method (ARPACK)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.core import ConfigError, NonFiniteError

if TYPE_CHECKING:
    import numpy as np

    from hybridopt.linalg.operator import SymmetricOperator


def eigsh(
    operator: SymmetricOperator, k: int, *, which: str, tol: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Returns k eigenpairs, see `SymmetricOperator.eigsh`.

    Args:
        operator: The operator.
        k: How many.
        which: ``"LM"``, ``"SM"``, ``"LA"``, ``"SA"`` or ``"BE"``, as ARPACK names them.
        tol: Relative accuracy; 0 is that of the operator's dtype.
        generator: Where the start vector comes from; seeded with 0 when None.

    Returns:
        Eigenvalues in ascending order, shape (k,), and eigenvectors, shape (n, k), in the operator's dtype.

    Raises:
        ConfigError: If `which` is unknown or k is out of range.
        NonFiniteError: If a product is not finite.
    """
    if which not in ("LM", "SM", "LA", "SA", "BE"):
        raise ConfigError(f"which must be one of 'LM', 'SM', 'LA', 'SA', 'BE', not {which!r}.")
    if not 1 <= k <= operator.n:
        raise ConfigError(f"k must be between 1 and the dimension {operator.n}, not {k}.")
    if k >= operator.n - 1:
        # ARPACK needs room for its Krylov space; so few dimensions are cheaper solved densely.
        dense = operator.dense().double()
        if not dense.isfinite().all():
            raise NonFiniteError("The operator's products are not finite, so it has no eigenvalues.")
        values, vectors = torch.linalg.eigh(dense)
        chosen = _choose(values, k, which)
        return values[chosen].to(operator.dtype), vectors[:, chosen].to(operator.dtype)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    start = torch.randn(operator.n, generator=generator, dtype=torch.float64, device="cpu").numpy()
    tol = tol or (0.0 if operator.dtype == torch.float64 else 1e-5)
    if k == 1 and which == "BE":
        which = "LA"  # where the odd one is taken; ARPACK refuses this pair
    values, vectors = _arpack(operator, k, which, tol, start)
    order = values.argsort()
    return (
        torch.from_numpy(values[order]).to(operator.device, operator.dtype),
        torch.from_numpy(vectors[:, order]).to(operator.device, operator.dtype),
    )


def _arpack(
    operator: SymmetricOperator, k: int, which: str, tol: float, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np
    import scipy.sparse.linalg

    view = operator.to_scipy()
    try:
        return scipy.sparse.linalg.eigsh(view, k=k, which=which, tol=tol, v0=start)
    except scipy.sparse.linalg.ArpackError:
        product = view @ start
        if not np.isfinite(product).all():
            raise NonFiniteError("The operator's products are not finite, so it has no eigenvalues.") from None
        if product.any():
            raise
        # ARPACK gives up on the zero operator, to which every vector is an eigenvector.
        return np.zeros(k), np.eye(operator.n, k)


def _choose(values: Tensor, k: int, which: str) -> Tensor:
    n = values.numel()
    if which == "LA":
        return torch.arange(n - k, n, device="cpu")
    if which == "SA":
        return torch.arange(k, device="cpu")
    if which == "BE":
        return torch.cat([torch.arange(k // 2, device="cpu"), torch.arange(n - (k - k // 2), n, device="cpu")])
    order = values.abs().argsort(descending=which == "LM")
    return order[:k].sort().values
