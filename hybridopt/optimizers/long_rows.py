"""Products with a few long rows at the speed of memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LARGE = 2**20  # entries; below, nothing here makes a difference
_LINE = 64  # bytes of a cache line
_BLOCKS = 8
_TILE = 5 * 2**18  # bytes of the rows' parts that a core goes over twice


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
        return torch.mv(rows, vector).double().cpu()
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
    whole = _BLOCKS * length
    _combine(_blocks(rows, length), factors, vector[:whole], beta, out[:whole])
    torch.addmv(vector[whole:], rows[:, whole:].t(), factors, beta=beta, out=out[whole:])
    return out


def combine_inner(
    rows: Tensor, factors: Tensor, vector: Tensor, *, beta: float, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns ``beta * vector + rows' factors`` and its inner products with the rows, which are read once for both.

    Args:
        rows: Shape (count, n).
        factors: Shape (count,), in the dtype of the rows and where they are.
        vector: Shape (n,).
        beta: Its factor.
        out: Where the combination goes to, perhaps `vector`; a new tensor when None.

    Returns:
        The combination, shape (n,), and the products, shape (count,), in float64 on the CPU.
    """
    count, n = rows.shape
    # What threads work on together stays in the caches until the products have been taken too.
    together = 2 * torch.get_num_threads()
    turns = -(-count * n * rows.itemsize // (_TILE * together))
    length = n // (turns * together * _LINE) * _LINE if _block(rows) else 0
    if not length:
        out = combine(rows, factors, vector, beta=beta, out=out)
        return out, inner(rows, out)
    out = torch.empty_like(vector) if out is None else out
    whole = turns * together * length
    blocks = _blocks(rows, length, turns * together)
    products = torch.empty(turns * together, 1, count, dtype=rows.dtype, device=rows.device)
    for turn, part in enumerate(products.split(together)):
        place = slice(turn * together * length, (turn + 1) * together * length)
        tiles = blocks[turn * together : (turn + 1) * together]
        q = _combine(tiles, factors, vector[place], beta, out[place])
        torch.bmm(q, tiles.transpose(1, 2), out=part)
    rest = rows[:, whole:]
    torch.addmv(vector[whole:], rest.t(), factors, beta=beta, out=out[whole:])
    return out, products.double().sum((0, 1)) + torch.mv(rest, out[whole:]).double()


def _combine(blocks: Tensor, factors: Tensor, vector: Tensor, beta: float, out: Tensor) -> Tensor:
    """``beta * vector + rows' factors`` for a batch of blocks, as rows of shape (blocks, 1, length)."""
    shape = (len(blocks), 1, -1)
    result, parts = out.view(shape), factors.expand(len(blocks), 1, -1)
    if out.data_ptr() == vector.data_ptr():
        return result.baddbmm_(parts, blocks, beta=beta)  # with out= it would be copied onto itself first
    return torch.baddbmm(vector.view(shape), parts, blocks, beta=beta, out=result)


def _block(rows: Tensor) -> int:
    """Length of the blocks into which large rows on the CPU are divided, a whole number of cache lines; else 0."""
    if rows.device.type != "cpu" or rows.numel() < _LARGE:
        return 0
    return rows.shape[1] // (_BLOCKS * _LINE) * _LINE


def _blocks(rows: Tensor, length: int, count: int = _BLOCKS) -> Tensor:
    """The rows as a batch of blocks, shape (blocks, count, length)."""
    return rows[:, : count * length].unflatten(1, (count, length)).transpose(0, 1)
