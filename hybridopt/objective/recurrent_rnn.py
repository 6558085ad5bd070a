"""Sweeps over time of a plain recurrent layer (Elman 1990): h_t = tanh or relu of P (h_{t-1}, 1, x_t)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from hybridopt.objective.recurrent_sweeps import Adjoint, Direction, LinearTangent, Sweeps, Tangent


def pack(w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> list[Tensor]:
    """Packs torch's weights, differentiably.

    Args:
        w_ih: (H, I).
        w_hh: (H, H).
        b_ih: (H,) or None.
        b_hh: (H,) or None.

    Returns:
        One matrix, (H, H + I) or (H, H + 1 + I).
    """
    bias = [] if b_ih is None or b_hh is None else [(b_ih + b_hh)[:, None]]
    return [torch.cat([w_hh, *bias, w_ih], dim=1)]


class RNNSweeps(Sweeps):
    """A plain recurrent layer; see the base class. Its weights come from `pack`."""

    @property
    def local_shape(self) -> tuple[int, ...]:
        """(T, H, B): the pre-activations."""
        return self.hidden_shape

    @staticmethod
    @abstractmethod
    def _activate(rows: Tensor) -> None:
        """Applies the nonlinearity in place."""

    @staticmethod
    @abstractmethod
    def _slope(hidden: Tensor) -> Tensor:
        """Returns the derivative of the nonlinearity, a contiguous tensor, in terms of its value."""

    def _forward(self, c0: Tensor | None) -> None:
        (weight,) = self.weights
        z, h = self.z.unbind(0), self.z[:, : self.size].unbind(0)
        for t in range(self.steps):
            self._activate(torch.mm(weight, z[t], out=h[t + 1]))
        self.factors = self._slope(self.z[1:, : self.size])

    def reverse(
        self, out: Tensor | None, cell: Tensor | None, hidden: Tensor | None, local: Tensor | None, keep: bool
    ) -> Adjoint:
        """Sweeps back in time; see the base class."""
        rows = self.z.new_empty(self.hidden_shape)
        rows_t, factors, from_outside = rows.unbind(0), self.factors.unbind(0), self.gradient_of_hidden(out, hidden)
        sources = None if local is None else local.unbind(0)
        back, dh = self.hidden_weight.t(), self.z.new_empty(self.size, self.batch)
        for t in range(self.steps - 1, -1, -1):
            if t == self.steps - 1:
                dh.copy_(from_outside[t])
            else:
                torch.addmm(from_outside[t], back, rows_t[t + 1], out=dh)
            if sources is None:
                torch.mul(factors[t], dh, out=rows_t[t])
            else:
                torch.addcmul(sources[t], factors[t], dh, out=rows_t[t])
        return Adjoint(rows)

    def tangent(self, direction: Direction, keep: bool) -> Tangent:
        """Sweeps a direction forward in time; see the base class."""
        hidden = self.z.new_empty(self.hidden_shape)
        local = torch.empty_like(hidden) if keep else hidden
        linear = LinearTangent(self, direction, local)
        factors, rows, h = self.factors.unbind(0), local.unbind(0), hidden.unbind(0)
        before = None if direction.h0 is None else direction.h0.t()
        for t in range(self.steps):
            linear.step(t, before)
            before = torch.mul(factors[t], rows[t], out=h[t])
        return Tangent(hidden, local=local if keep else None)


class TanhSweeps(RNNSweeps):
    """With tanh."""

    @staticmethod
    def _activate(rows: Tensor) -> None:
        rows.tanh_()

    @staticmethod
    def _slope(hidden: Tensor) -> Tensor:
        return torch.mul(hidden, hidden, out=hidden.new_empty(hidden.shape)).neg_().add_(1.0)

    def curvature(self, adjoint: Adjoint, local: Tensor) -> Tensor:
        """Returns the second derivative of the steps times a tangent; see the base class."""
        if not adjoint.coefficients:
            # tanh'' = -2 tanh tanh', and the rest of the product is in rows.
            adjoint.coefficients = ((adjoint.rows * self.z[1:, : self.size]).mul_(-2.0),)
        return adjoint.coefficients[0] * local


class ReLUSweeps(RNNSweeps):
    """With relu."""

    @staticmethod
    def _activate(rows: Tensor) -> None:
        rows.relu_()

    @staticmethod
    def _slope(hidden: Tensor) -> Tensor:
        return (hidden > 0).to(hidden.dtype, memory_format=torch.contiguous_format)

    def curvature(self, adjoint: Adjoint, local: Tensor) -> None:
        """Returns None: the steps are piecewise linear."""
