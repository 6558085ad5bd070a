"""The sweeps over time of one recurrent layer: forward, reverse, tangent; what all cells share.

Time comes first and the batch last, (T, rows, B): the gates of a step are then contiguous blocks of rows, and
a step is one or two matrix products and a few pointwise kernels on such blocks. What is no recurrence (weight
gradients, second derivatives of the steps) is done for many steps at once.

The pre-activations of a step are linear in z = (h_{t-1}, 1, x_t). A cell packs its weights into one matrix or
several, each of which maps a range of rows of z to a range of rows of the pre-activations (`Block`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Pointwise work over several steps at once is cut into pieces of about this many numbers, so that what one
# kernel writes is still in the cache when the next one reads it.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Block:
    """Where one packed weight matrix stands in the linear part of a step.

    Attributes:
        rows: The pre-activations it adds to.
        z: What it is multiplied with.
    """

    rows: slice
    z: slice


@dataclass(frozen=True)
class Direction:
    """A direction in the space of everything a layer depends on; None is zero.

    Attributes:
        x: In the input, (T, B, I).
        h0: In the initial hidden state, (B, H).
        c0: In the initial cell, (B, H).
        weights: In the packed weights.
    """

    x: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    weights: Sequence[Tensor | None]

    @property
    def is_zero(self) -> bool:
        """Whether nothing moves."""
        return all(part is None for part in (self.x, self.h0, self.c0, *self.weights))


@dataclass
class Adjoint:
    """What a sweep back in time leaves behind.

    Attributes:
        rows: Gradient of the pre-activations, (T, n, B).
        h0: Gradient of the initial hidden state, (H, B), apart from what flows through the pre-activations.
        c0: Gradient of the initial cell, (H, B), if there is one.
        kept: What the second derivatives of the steps are made of, if they are going to be asked for.
        coefficients: Second derivatives of the steps, made at the first product.
    """

    rows: Tensor
    h0: Tensor | None = None
    c0: Tensor | None = None
    kept: tuple[Tensor, ...] = ()
    coefficients: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Tangent:
    """What a sweep of a direction forward in time leaves behind.

    Attributes:
        hidden: Tangent of the hidden states, (T, H, B).
        cell: Tangent of the final cell, (H, B), if there is one.
        local: Tangent of what the nonlinear part of the steps depends on, if it was to be kept.
    """

    hidden: Tensor
    cell: Tensor | None = None
    local: Tensor | None = None


class Sweeps(ABC):
    """One layer in one direction of time at one point; the forward sweep is run when it is made.

    Args:
        x: Input, (T, B, I).
        h0: Initial hidden state, (B, H).
        c0: Initial cell, (B, H), or None.
        weights: Packed weights.

    Attributes:
        blocks: Where the packed weights stand. The first of them multiplies the hidden state, the last the
            input.
        z: (T + 1, H + b + I, B) with b = 1 if there is a bias, else 0. Of the last step only the hidden state
            counts.
    """

    def __init__(self, x: Tensor, h0: Tensor, c0: Tensor | None, weights: Sequence[Tensor]) -> None:
        self.steps, self.batch, self.inputs = x.shape
        self.size = size = h0.shape[1]
        self.weights = [weight.detach() for weight in weights]
        self.hidden_weight = self.weights[0][:, :size]
        self.input_weight = self.weights[-1][:, -self.inputs :]
        self.blocks = self._layout()
        width = self.blocks[-1].z.stop
        self.z = x.new_empty(self.steps + 1, width, self.batch)
        self.z[0, :size] = h0.t()
        self.z[:, size : width - self.inputs] = 1.0
        self.z[: self.steps, width - self.inputs :] = x.transpose(1, 2)
        self._forward(c0)

    @property
    def hidden_shape(self) -> tuple[int, int, int]:
        """Shape of the hidden states, and of their further gradient in `reverse`."""
        return self.steps, self.size, self.batch

    @property
    @abstractmethod
    def local_shape(self) -> tuple[int, ...]:
        """Shape of what `curvature` takes and returns."""

    def _layout(self) -> tuple[Block, ...]:
        """Returns the blocks; here those of a single matrix."""
        n, width = self.weights[0].shape
        return (Block(slice(0, n), slice(0, width)),)

    @abstractmethod
    def _forward(self, c0: Tensor | None) -> None:
        """Runs the layer: fills the hidden states of z and what the other sweeps need."""

    @abstractmethod
    def reverse(
        self, out: Tensor | None, cell: Tensor | None, hidden: Tensor | None, local: Tensor | None, keep: bool
    ) -> Adjoint:
        """Sweeps back in time.

        Args:
            out: Gradient of the output, (T, B, H).
            cell: Gradient of the final cell, (B, H).
            hidden: Further gradient of the hidden states, (T, H, B).
            local: Further gradient of what the nonlinear part of the steps depends on, of `local_shape`.
            keep: Whether `curvature` is going to be asked of the result.
        """

    @abstractmethod
    def tangent(self, direction: Direction, keep: bool) -> Tangent:
        """Sweeps a direction forward in time.

        Args:
            direction: Not zero.
            keep: Whether `curvature` is going to be asked of the result.
        """

    @abstractmethod
    def curvature(self, adjoint: Adjoint, local: Tensor) -> Tensor | None:
        """Returns the second derivative of the steps' nonlinear part, weighted by `adjoint`, times `local`.

        Args:
            adjoint: From `reverse`, with `keep`.
            local: From `tangent`, with `keep`.

        Returns:
            Of `local_shape`; None if it is zero.
        """

    def output(self) -> Tensor:
        """Returns the hidden states, (T, B, H), contiguous and new."""
        return _fresh(self.z[1:, : self.size].transpose(1, 2))

    def final_cell(self) -> Tensor | None:
        """Returns the final cell, (B, H), new, or None."""
        return None

    def gradients(self, adjoint: Adjoint, wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Returns the gradients for x, h0, c0 and the packed weights, new tensors.

        Args:
            adjoint: From `reverse`.
            wanted: One flag for each of them; None is returned for the others.
        """
        rows = adjoint.rows
        x = h0 = c0 = None
        if wanted[0]:
            x = _fresh(_times(self.input_weight.t(), rows[:, self.blocks[-1].rows]).transpose(1, 2))
        if wanted[1]:
            h0 = torch.mm(self.hidden_weight.t(), rows[0, self.blocks[0].rows])
            h0 = _fresh((h0 if adjoint.h0 is None else h0.add_(adjoint.h0)).t())
        if wanted[2] and adjoint.c0 is not None:
            c0 = _fresh(adjoint.c0.t())
        weights = [
            _fresh(_sum_of_products(rows[:, block.rows], self.z[: self.steps, block.z])) if flag else None
            for block, flag in zip(self.blocks, wanted[3:], strict=True)
        ]
        return x, h0, c0, *weights

    def products(
        self, adjoint: Adjoint, tangent: Tangent, direction: Direction, wanted: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Returns the derivative along a direction of the gradient's matrix products, `adjoint` held fixed.

        Args:
            adjoint: From `reverse`.
            tangent: From `tangent`, of this direction.
            direction: The direction.
            wanted: Flags for x, h0, the hidden states and the packed weights.

        Returns:
            What is wanted for x, (T, B, I), h0, (B, H), the hidden states, (T, H, B), and the packed weights.
        """
        rows, first, last = adjoint.rows, self.blocks[0], self.blocks[-1]
        x = h0 = hidden = None
        if wanted[0] and direction.weights[-1] is not None:
            back = direction.weights[-1][:, -self.inputs :].t()
            x = _times(back, rows[:, last.rows]).transpose(1, 2)
        if direction.weights[0] is not None:
            back = direction.weights[0][:, : self.size].t()
            if wanted[1]:
                h0 = torch.mm(back, rows[0, first.rows]).t()
            if wanted[2] and self.steps > 1:
                hidden = rows.new_empty(self.hidden_shape)
                hidden[-1] = 0.0
                torch.bmm(back.expand(self.steps - 1, -1, -1), rows[1:, first.rows], out=hidden[:-1])
        weights: list[Tensor | None] = [None] * len(self.blocks)
        for k, block in enumerate(self.blocks):
            if not wanted[3 + k]:
                continue
            weights[k] = product = torch.zeros_like(self.weights[k])
            part = rows[:, block.rows]
            if block is first and self.steps > 1:
                product[:, : self.size] = _sum_of_products(part[1:], tangent.hidden[:-1])
            if block is first and direction.h0 is not None:
                product[:, : self.size].addmm_(part[0], direction.h0)
            if block is last and direction.x is not None:
                product[:, -self.inputs :] = _sum_of_products(part, direction.x.transpose(1, 2))
        return x, h0, hidden, *weights

    def gradient_of_hidden(self, out: Tensor | None, hidden: Tensor | None) -> Sequence[Tensor]:
        """Returns the gradient that reaches the hidden states from outside, (H, B) for each step; read only.

        Args:
            out: (T, B, H).
            hidden: (T, H, B).
        """
        if out is None:
            total = self.z.new_zeros(self.hidden_shape) if hidden is None else hidden.contiguous()
        elif hidden is None:
            total = out.transpose(1, 2).contiguous()
        else:
            total = torch.add(out.transpose(1, 2), hidden, out=self.z.new_empty(self.hidden_shape))
        return total.unbind(0)


class LinearTangent:
    """The tangent of the linear part, a' = P' z + P z', for one step after the other.

    Args:
        sweeps: The layer.
        direction: The direction.
        rows: Where it is written, (T, n, B), or (n, B) if each step overwrites the one before.
    """

    def __init__(self, sweeps: Sweeps, direction: Direction, rows: Tensor) -> None:
        steps = sweeps.steps
        first, last = sweeps.blocks[0], sweeps.blocks[-1]
        terms: list[tuple[Tensor, Sequence[Tensor], slice]] = [
            (weight, sweeps.z[:steps, block.z].unbind(0), block.rows)
            for weight, block in zip(direction.weights, sweeps.blocks, strict=True)
            if weight is not None
        ]
        if direction.x is not None:
            terms.append((sweeps.input_weight, direction.x.transpose(1, 2).contiguous().unbind(0), last.rows))

        def targets(part: slice) -> Sequence[Tensor]:
            return rows[:, part].unbind(0) if rows.dim() == 3 else [rows[part]] * steps

        # The first term is written, the others are added to it. Rows that it leaves out are set to zero.
        n, covered = rows.shape[-2], terms[0][2] if terms else slice(0, 0)
        rest = slice(covered.stop, n) if covered.start == 0 else slice(0, covered.start)
        self._empty = targets(rest) if rest.stop > rest.start else None
        views = [(weight, operands, targets(part)) for weight, operands, part in terms]
        self._written, self._added = views[:1], views[1:]
        self._hidden_weight, self._hidden_targets = sweeps.hidden_weight, targets(first.rows)

    def step(self, t: int, hidden: Tensor | None) -> None:
        """Computes step t.

        Args:
            t: Which.
            hidden: Tangent of the hidden state before it, (H, B); None is zero.
        """
        if self._empty is not None:
            self._empty[t].zero_()
        for weight, operands, targets in self._written:
            torch.mm(weight, operands[t], out=targets[t])
        for weight, operands, targets in self._added:
            targets[t].addmm_(weight, operands[t])
        if hidden is not None:
            self._hidden_targets[t].addmm_(self._hidden_weight, hidden)


def chunks(steps: int, per_step: int, device: torch.device) -> Iterator[slice]:
    """Yields slices of time for pointwise work: cache-sized on a CPU, all of it at once elsewhere.

    Args:
        steps: Length in time.
        per_step: Numbers in the largest tensor of a step.
        device: Where it runs.
    """
    size = max(1, _CHUNK // max(1, per_step)) if device.type == "cpu" else steps
    for start in range(0, steps, size):
        yield slice(start, min(start + size, steps))


def _fresh(tensor: Tensor) -> Tensor:
    """Returns a contiguous copy: what an autograd node returns must not share memory with what it keeps."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _times(matrix: Tensor, sequence: Tensor) -> Tensor:
    """Returns matrix @ sequence[t] for all t."""
    return torch.bmm(matrix.expand(sequence.shape[0], -1, -1), sequence)


def _sum_of_products(rows: Tensor, z: Tensor) -> Tensor:
    """Returns sum_t rows[t] z[t]' for (T, n, B) and (T, m, B): (n, m).

    It is summed up transposed. The number of rows is a multiple of the number of gates, so mostly of a cache
    line, and that of z is not: with the latter as leading dimension the product takes up to 1.5 times as long
    on a CPU.
    """
    if rows.device.type == "cpu":
        return torch.addbmm(rows.new_empty(z.shape[1], rows.shape[1]), z, rows.transpose(1, 2), beta=0).t()
    return torch.tensordot(z, rows, dims=([0, 2], [0, 2])).t()
