"""Products with a few long rows at the speed of memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LARGE = 2**20  # entries; below, nothing here makes a difference
_LINE = 64  # bytes of a cache line
_BLOCKS = 8


def zeros(count: int, n: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns rows of zeros; large ones on the CPU begin at cache lines and lie in large pages, which saves a fifth.

    Args:
        count: How many rows.
        n: Their length.
        dtype: Of the entries.
        device: Where they lie.

    Returns:
        Shape (count, n); the rows of large ones are apart by a little more than n.
    """
    if device.type != "cpu" or count * n < _LARGE:
        return torch.zeros(count, n, dtype=dtype, device=device)
    stride = -(-n * dtype.itemsize // _LINE) * _LINE
    size = count * stride
    # NumPy asks the kernel for large pages, torch does not.
    memory = np.zeros(size + _LINE, dtype=np.uint8)
    start = -memory.ctypes.data % _LINE
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(count, -1)[:, :n]


def settled(rows: Tensor) -> Tensor:
    """Returns rows that lie as `zeros` places them: the same tensor, or a copy of one that was loaded or cloned.

    How sums are rounded depends on where vectors begin, so a run that was resumed needs this to go on as it would have.

    Args:
        rows: Shape (count, n).
    """
    if rows.device.type != "cpu" or rows.numel() < _LARGE:
        return rows
    if rows.stride(0) * rows.itemsize % _LINE == 0 and rows.data_ptr() % _LINE == 0:
        return rows
    return zeros(*rows.shape, dtype=rows.dtype, device=rows.device).copy_(rows)


def inner(rows: Tensor, vector: Tensor) -> Tensor:
    """Returns the inner products of the rows with a vector.

    Args:
        rows: Shape (count, n).
        vector: Shape (n,).

    Returns:
        Shape (count,), in float64 on the CPU.
    """
    length = _block(rows)
    if not length:
        # On the CPU, torch's matrix product is twice as fast as its mv.
        return torch.mm(rows, vector[:, None])[:, 0].double().cpu()
    # The matrix library does not divide such a product among threads; as a batch of blocks it is.
    whole = _BLOCKS * length
    parts = torch.bmm(vector[:whole].view(_BLOCKS, 1, length), _blocks(rows, length).transpose(1, 2))
    return parts.double().sum((0, 1)) + torch.mv(rows[:, whole:], vector[whole:]).double()


def combine(rows: Tensor, factors: Tensor, vector: Tensor, *, beta: float, out: Tensor | None = None) -> Tensor:
    """Returns ``beta * vector + rows' factors``.

    Args:
        rows: Shape (count, n).
        factors: Shape (count,), in the dtype of the rows and where they are.
        vector: Shape (n,).
        beta: Its factor.
        out: Where to, perhaps `vector`; a new tensor when None.

    Returns:
        Shape (n,).
    """
    length = _block(rows)
    if not length:
        return torch.addmv(vector, rows.t(), factors, beta=beta, out=out)
    out = torch.empty_like(vector) if out is None else out
    whole, shape = _BLOCKS * length, (_BLOCKS, 1, length)
    parts = factors.expand(_BLOCKS, 1, -1)
    torch.baddbmm(vector[:whole].view(shape), parts, _blocks(rows, length), beta=beta, out=out[:whole].view(shape))
    torch.addmv(vector[whole:], rows[:, whole:].t(), factors, beta=beta, out=out[whole:])
    return out


def _block(rows: Tensor) -> int:
    """Length of the blocks into which large rows on the CPU are divided, a whole number of cache lines; else 0."""
    if rows.device.type != "cpu" or rows.numel() < _LARGE:
        return 0
    return rows.shape[1] // (_BLOCKS * _LINE) * _LINE


def _blocks(rows: Tensor, length: int) -> Tensor:
    """The rows as a batch of blocks, shape (blocks, count, length)."""
    return rows[:, : _BLOCKS * length].unflatten(1, (_BLOCKS, length)).transpose(0, 1)
