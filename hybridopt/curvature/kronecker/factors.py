"""The two Kronecker factors of a layer, and its squared gradients in their eigenbasis.

Let a be the inputs and g the gradients of the pre-activations of a layer that is used at P positions of each of N
data, with g weighted so that ``sum_n vec(sum_p g_np a_np') vec(sum_p g_np a_np')'`` is the block of the Fisher matrix,
exactly or in expectation over the cotangents. Its approximation is A kron G with (Eschenhagen et al. 2023, section 3)

    expand:  A = 1/(N P) sum_np a_np a_np'             G = sum_np g_np g_np'
    reduce:  A = 1/N sum_n a_n a_n', a_n = mean_p      G = sum_n g_n g_n', g_n = sum_p g_np
    nearest: A and G of ``expand``, then one step of the power method for the Kronecker product that is nearest to the
             block: first A for that G, then G for that A
    auto:    nearest for recurrent layers (but expand in micro-batches), expand for all others

Without shared weights (P = 1) the first two are K-FAC (Martens and Grosse 2015, section 3). For a convolution, with the
places of the image as positions, ``expand`` is KFC (Grosse and Martens 2016: derivatives at different places
uncorrelated). For a recurrent layer, with the steps as positions, it takes the contributions of different steps as
uncorrelated, and inputs and gradients as independent of one another and of the time (temporal independence, the
simplest of the approximations of Martens, Ba and Johnson 2018). ``nearest`` makes no such assumption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import CombinationError
from hybridopt.curvature.kronecker.calls import Call
from hybridopt.curvature.kronecker.layers import Layer

SETTINGS = ("expand", "reduce", "nearest", "auto")

# Gradients of single data are formed in pieces of about this many numbers.
_CHUNK = 1 << 22


def input_factor(layer: Layer, calls: Sequence[Call], setting: str, dtype: torch.dtype) -> Tensor:
    """Returns A of a layer, (groups, columns, columns).

    Args:
        layer: Which.
        calls: Its calls.
        setting: ``expand``, ``reduce``, or ``nearest``, which begins as ``expand``.
        dtype: Of the result.

    Raises:
        CombinationError: If the samples of a layer's calls cannot be matched (``reduce``).
    """
    inputs = [call.inputs().to(dtype) for call in calls]
    if layer.weight is None:
        return inputs[0].new_ones(layer.groups, 1, 1)
    if setting == "reduce":
        positions = sum(part.shape[2] for part in inputs)
        rows = _matched([part.sum(dim=2) for part in inputs], layer) / positions
        total, count = rows.mT @ rows, rows.shape[1]
        sums = rows.sum(dim=1)
    else:
        flat = [part.flatten(1, 2) for part in inputs]
        count = sum(part.shape[1] for part in flat)
        total = torch.stack([part.mT @ part for part in flat]).sum(dim=0)
        sums = torch.stack([part.sum(dim=1) for part in flat]).sum(dim=0)
    if layer.bias is None:
        return total / count
    factor = total.new_empty(layer.groups, total.shape[1] + 1, total.shape[1] + 1)
    factor[:, :-1, :-1] = total / count
    factor[:, :-1, -1] = factor[:, -1, :-1] = sums / count
    factor[:, -1, -1] = 1.0
    return factor


def output_factor(layer: Layer, calls: Sequence[Call], setting: str, dtype: torch.dtype) -> Tensor:
    """Returns the part of G that one backward pass gives, (groups, rows, rows).

    Args:
        layer: Which.
        calls: Its calls, of which the backward pass reached some.
        setting: ``expand``, ``reduce``, or ``nearest``, which begins as ``expand``.
        dtype: Of the result.

    Raises:
        CombinationError: If the samples of a layer's calls cannot be matched (``reduce``).
    """
    found = [part.to(dtype) for part in (call.gradients() for call in calls) if part is not None]
    if setting == "reduce":
        rows = _matched([part.sum(dim=2) for part in found], layer)
        return rows.mT @ rows
    flat = [part.flatten(1, 2) for part in found]
    return torch.stack([part.mT @ part for part in flat]).sum(dim=0)


def _matched(parts: list[Tensor], layer: Layer) -> Tensor:
    if len({part.shape for part in parts}) > 1:
        raise CombinationError(
            f"A {layer.kind} layer is used several times on different numbers of samples, which setting=reduce cannot "
            "sum up. Use setting=expand."
        )
    return torch.stack(parts).sum(dim=0)


@dataclass(frozen=True)
class Basis:
    """The eigenvectors of both factors of a layer, for every group.

    Attributes:
        input_values: Eigenvalues of A, (groups, columns), not negative.
        input_vectors: Its eigenvectors, (groups, columns, columns).
        output_values: Eigenvalues of G, (groups, rows), not negative.
        output_vectors: Its eigenvectors, (groups, rows, rows).
    """

    input_values: Tensor
    input_vectors: Tensor
    output_values: Tensor
    output_vectors: Tensor

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor) -> Basis:
        """Returns the basis of two factors.

        Args:
            inputs: A, (groups, columns, columns).
            outputs: G, (groups, rows, rows).
        """
        return cls(*_eigh(inputs), *_eigh(outputs))

    def to(self, matrix: Tensor) -> Tensor:
        """Returns U_G' V U_A, the coordinates of a layer's part of a vector.

        Args:
            matrix: Shape (groups, rows, columns).
        """
        return self.output_vectors.mT @ matrix @ self.input_vectors

    def back(self, matrix: Tensor) -> Tensor:
        """Returns U_G V U_A', what has these coordinates.

        Args:
            matrix: Shape (groups, rows, columns).
        """
        return self.output_vectors @ matrix @ self.input_vectors.mT

    @property
    def values(self) -> Tensor:
        """Eigenvalues of A kron G, (groups, rows, columns)."""
        return self.output_values[:, :, None] * self.input_values[:, None, :]

    def split(self, damping: float) -> Tensor:
        """Returns the eigenvalues of (A + pi sqrt(l) I) kron (G + sqrt(l)/pi I), (groups, rows, columns).

        Factored Tikhonov damping with pi the root of the ratio of the factors' mean eigenvalues (Martens and Grosse
        2015, section 6.3).

        Args:
            damping: l.
        """
        means = self.input_values.mean(dim=1), self.output_values.mean(dim=1)
        pi = (means[0] / means[1]).sqrt()
        # A factor that vanishes has no scale of its own.
        pi = torch.where((means[0] > 0) & (means[1] > 0), pi, 1.0)[:, None]
        root = damping**0.5
        return (self.output_values + root / pi)[:, :, None] * (self.input_values + root * pi)[:, None, :]

    def carry(self, values: Tensor, older: Basis) -> Tensor:
        """Returns the diagonal in this basis of what is diagonal in an older one, (groups, rows, columns).

        Args:
            values: Eigenvalues in the older basis.
            older: That basis.
        """
        rows = (self.output_vectors.mT @ older.output_vectors).square()
        columns = (self.input_vectors.mT @ older.input_vectors).square()
        return rows @ values @ columns.mT


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # float32 may fail where the eigenvalues span many orders of magnitude
        values, vectors = (part.to(matrix.dtype) for part in torch.linalg.eigh(matrix.double()))
    return values.clamp(min=0.0), vectors


def squared_gradients(layer: Layer, calls: Sequence[Call], basis: Basis) -> Tensor:
    """Returns the data's squared gradients in a basis, summed, (groups, rows, columns).

    The gradient of a datum is summed over positions, so this is the exact diagonal of the block in that basis
    (George et al. 2018, section 3). Where the calls of a layer have different numbers of samples, each counts as
    data of its own.

    Args:
        layer: Which.
        calls: Its calls, of which a backward pass reached some.
        basis: The basis.
    """
    total = torch.zeros_like(basis.values)
    for rows, columns in _pairs(layer, calls, total.dtype):
        rows, columns = rows @ basis.output_vectors[:, None], columns @ basis.input_vectors[:, None]
        if rows.shape[2] == 1:
            total += rows[:, :, 0].square().mT @ columns[:, :, 0].square()
            continue
        for gradients in _data_gradients(rows, columns):
            total += gradients.square_().sum(dim=1)
    return total


def nearest_input_factor(layer: Layer, calls: Sequence[Call], outputs: Tensor) -> Tensor:
    """Returns ``sum_n D_n' G D_n / ||G||^2`` over the data's gradients D_n, (groups, columns, columns).

    For this G no A makes A kron G nearer to the block in the Frobenius norm: half a step of the power method for the
    nearest Kronecker product (Van Loan and Pitsianis 1993; for K-FAC: Koroko et al. 2022).

    Args:
        layer: Which.
        calls: Its calls, of which a backward pass reached some.
        outputs: G, (groups, rows, rows).
    """
    parts = [_weighted(rows, columns, outputs) for rows, columns in _pairs(layer, calls, outputs.dtype)]
    return _quotient(sum(parts), outputs)  # type: ignore[arg-type]


def nearest_output_factor(layer: Layer, calls: Sequence[Call], inputs: Tensor) -> Tensor:
    """Returns ``sum_n D_n A D_n' / ||A||^2`` over the data's gradients D_n, (groups, rows, rows).

    Args:
        layer: Which.
        calls: Its calls, of which a backward pass reached some.
        inputs: A, (groups, columns, columns).
    """
    parts = [_weighted(columns, rows, inputs) for rows, columns in _pairs(layer, calls, inputs.dtype)]
    return _quotient(sum(parts), inputs)  # type: ignore[arg-type]


def _weighted(rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
    """Returns sum_n D_n' F D_n for D_n = rows_n' columns_n, by whichever order of products takes fewer operations."""
    p, r, c = rows.shape[2], rows.shape[3], columns.shape[3]
    if p * (r * r + c * c) + p * p * (r + c) <= r * c * (p + r + c):
        weights = (rows.flatten(1, 2) @ factor).view_as(rows) @ rows.mT
        return columns.flatten(1, 2).mT @ (weights @ columns).flatten(1, 2)
    parts = [
        gradients.flatten(1, 2).mT @ (factor[:, None] @ gradients).flatten(1, 2)
        for gradients in _data_gradients(rows, columns)
    ]
    return torch.stack(parts).sum(dim=0)


def _quotient(total: Tensor, factor: Tensor) -> Tensor:
    square = factor.square().sum(dim=(1, 2), keepdim=True)
    return torch.where(square > 0, total / square, 0.0)


def _pairs(layer: Layer, calls: Sequence[Call], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Gradients and inputs of the calls that a backward pass reached: more positions of the same data if possible."""
    pairs = []
    for call in calls:
        gradients = call.gradients()
        if gradients is not None:
            gradients = gradients.to(dtype)
            pairs.append((gradients, layer.inputs(call, gradients)))
    if len({rows.shape[1] for rows, _ in pairs}) == 1:
        pairs = [(torch.cat([rows for rows, _ in pairs], dim=2), torch.cat([columns for _, columns in pairs], dim=2))]
    return pairs


def _data_gradients(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Yields the gradients of a few data at a time, (groups, data, rows, columns)."""
    size = max(1, _CHUNK // (rows.shape[0] * rows.shape[3] * columns.shape[3]))
    for start in range(0, rows.shape[1], size):
        part = slice(start, start + size)
        yield rows[:, part].mT @ columns[:, part]
