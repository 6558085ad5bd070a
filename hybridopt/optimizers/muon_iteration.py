"""The Newton-Schulz iteration of Muon."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic X <- a X + (b A + c A A) X with A = X X' (Jordan et al. 2024): steep at zero, not exact at one."""


def newton_schulz(
    matrices: Tensor,
    *,
    steps: int = 5,
    coefficients: Sequence[float] = COEFFICIENTS,
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Returns U S' V' for matrices U S V', with singular values S' of about one (0.7 to 1.2) wherever S is not tiny.

    Args:
        matrices: Shape (rows, columns), or (batch, rows, columns) for many at once.
        steps: Iterations.
        coefficients: a, b and c of the polynomial.
        eps: The least norm to divide by, so that a zero matrix stays zero.
        dtype: What to compute in; that of `matrices` when None.

    Returns:
        The same shape, in `dtype`.
    """
    a, b, c = coefficients
    x = matrices.to(dtype or matrices.dtype)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    # The Frobenius norm bounds the largest singular value.
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    multiply_add = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
