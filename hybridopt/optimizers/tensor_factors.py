"""One small matrix for every dimension of a tensor: what Shampoo and SOAP multiply gradients with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridopt.optimizers.matrix_split import matrix_form

Factor = Tensor | None
"""A matrix (d, d), the diagonal (d,) of one, or None for the identity."""


def working_form(shape: Sequence[int], kernels: str) -> tuple[int, ...]:
    """Returns the shape in which a parameter is worked on; it has as many factors as that has dimensions.

    Args:
        shape: The parameter's.
        kernels: ``matrix`` flattens conv kernels to (output channels, rest); ``tensor`` keeps all dimensions larger
            than one.
    """
    if kernels == "matrix" and len(shape) > 2:
        return matrix_form(shape)
    kept = tuple(size for size in shape if size > 1)
    return kept or (1,)


def pieces(form: Sequence[int], limit: int | None) -> list[tuple[slice, ...]]:
    """Returns the blocks that a tensor is cut into, as index tuples in row-major order.

    Args:
        form: Shape of the tensor.
        limit: Longest side of a block, None for one block.
    """
    blocks: list[tuple[slice, ...]] = [()]
    for size in form:
        length = size if limit is None else limit
        cuts = [slice(start, min(start + length, size)) for start in range(0, size, length)]
        blocks = [(*block, cut) for block in blocks for cut in cuts]
    return blocks


def second_moment(tensor: Tensor, dimension: int, *, diagonal: bool = False) -> Tensor:
    """Returns G G' for a tensor unfolded along a dimension, or its diagonal.

    Args:
        tensor: Any shape.
        dimension: Which becomes the rows of G.
        diagonal: Whether only the diagonal is wanted.

    Returns:
        Shape (d, d), or (d,).
    """
    unfolded = tensor.movedim(dimension, 0).reshape(tensor.shape[dimension], -1)
    return unfolded.square().sum(dim=1) if diagonal else unfolded @ unfolded.T


def along_all(tensor: Tensor, factors: Sequence[Factor], *, transpose: bool = False) -> Tensor:
    """Returns a tensor multiplied by a factor along each of its dimensions: F1 G F2' for a matrix.

    Args:
        tensor: As many dimensions as there are factors.
        factors: One for each dimension.
        transpose: Whether to multiply by the transposed factors, F1' G F2.
    """
    for factor in factors:
        # Each turn takes the first dimension and puts it last, so that after all of them the order is the old one.
        if factor is None:
            tensor = tensor.movedim(0, -1)
        elif factor.dim() == 1:
            tensor = tensor.movedim(0, -1) * factor
        else:
            tensor = torch.tensordot(tensor, factor, dims=([0], [0 if transpose else 1]))
    return tensor


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns eigenvalues (ascending) and eigenvectors of a symmetric matrix, in float64 where float32 fails.

    Args:
        matrix: Shape (d, d).

    Returns:
        Both in the dtype of `matrix`, or None if there are none to be had: an entry is not finite.
    """
    # There is no decomposition in half precision.
    for dtype in dict.fromkeys((torch.promote_types(matrix.dtype, torch.float32), torch.float64)):
        try:
            values, vectors = torch.linalg.eigh(matrix.to(dtype))
        except torch.linalg.LinAlgError:
            continue
        values = values.to(matrix.dtype)
        if bool(torch.isfinite(values).all()):
            return values, vectors.to(matrix.dtype)
    return None


def inverse_root(statistic: Tensor, root: float, epsilon: float, *, relative: bool) -> Tensor | None:
    """Returns (A + ridge I)^(-1/root) of a positive semi-definite matrix.

    Args:
        statistic: A, shape (d, d), or the diagonal (d,) of one.
        root: Of Shampoo's exponent -1/root.
        epsilon: The ridge, if absolute.
        relative: Whether the ridge is `epsilon` times the largest eigenvalue. A zero matrix without a ridge counts as
            the identity.

    Returns:
        The same shape, or None if there is none to be had: an entry is not finite.
    """
    pair = None
    if statistic.dim() == 1:
        values = statistic
        if not bool(torch.isfinite(values).all()):
            return None
    else:
        pair = eigenpairs(statistic)
        if pair is None:
            return None
        values = pair[0]
    largest = values.max().clamp(min=0.0)
    # Below this an eigenvalue is rounding, and may be negative.
    values = values.clamp(min=largest * torch.finfo(values.dtype).eps) + (epsilon * largest if relative else epsilon)
    values = torch.where(values > 0, values, 1.0)
    powers = values.pow(-1.0 / root)
    return powers if pair is None else (pair[1] * powers) @ pair[1].T
