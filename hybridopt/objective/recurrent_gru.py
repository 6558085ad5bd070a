"""Sweeps over time of a GRU layer (Cho et al. 2014), in the variant of torch and cuDNN.

r, z = sigmoid(a_r, a_z),  n = tanh(p + r q),  h_t = n + z (h_{t-1} - n),  where q = W_hn h_{t-1} + b_hn and
p = W_in x_t + b_in: the reset gate acts after the matrix product, so that q and p are kept apart.

A step depends on five blocks of H rows, v = (q, a_r, a_z, p, h_{t-1}). To first order h_t' is the sum of F_k
v_k', and with the diagonal factors F stored, the tangent and the adjoint of a step are a few products of
blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.objective.recurrent_sweeps import Adjoint, Block, Direction, LinearTangent, Sweeps, Tangent, chunks

# Blocks of rows: the hidden state reaches the first three by a matrix product, the input the second to
# fourth.
_Q, _R, _Z, _P, _H = range(5)


def pack(w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> list[Tensor]:
    """Packs torch's weights, differentiably.

    Args:
        w_ih: (3 H, I), in the order r, z, n.
        w_hh: (3 H, H).
        b_ih: (3 H,) or None.
        b_hh: (3 H,) or None.

    Returns:
        For (h, 1), (3 H, H) or (3 H, H + 1), in the order q, r, z; for (1, x), (3 H, I) or (3 H, 1 + I), in
        the order r, z, p.
    """
    if b_ih is not None and b_hh is not None:
        w_hh, w_ih = torch.cat([w_hh, b_hh[:, None]], dim=1), torch.cat([b_ih[:, None], w_ih], dim=1)
    return [w_hh.roll(w_hh.shape[0] // 3, dims=0), w_ih]


class GRUSweeps(Sweeps):
    """A GRU layer; see the base class. Its weights come from `pack`."""

    @property
    def local_shape(self) -> tuple[int, ...]:
        """(T + 1, 5, H, B): the five blocks v of each step; of the last one nothing counts."""
        return self.steps + 1, 5, self.size, self.batch

    def _layout(self) -> tuple[Block, ...]:
        size, (of_hidden, of_input) = self.size, (weight.shape[1] for weight in self.weights)
        return (
            Block(slice(0, 3 * size), slice(0, of_hidden)),
            Block(slice(size, 4 * size), slice(size, size + of_input)),
        )

    def _forward(self, c0: Tensor | None) -> None:
        size, steps, batch = self.size, self.steps, self.batch
        # q, r, z and n of each step.
        self.gates = self.z.new_empty(steps, 4, size, batch)
        rows = self.gates.view(steps, 4 * size, batch)
        of_hidden, of_input = (rows[:, block.rows].unbind(0) for block in self.blocks)
        hidden_operands, input_operands = (self.z[:, block.z].unbind(0) for block in self.blocks)
        first, sigmoids = rows[:, :size].unbind(0), self.gates[:, 1:3].unbind(0)
        q, r, z, n = (gate.unbind(0) for gate in self.gates.unbind(1))
        h = self.z[:, :size].unbind(0)
        w_hidden, w_input = self.weights
        for t in range(steps):
            first[t].zero_()
            torch.mm(w_input, input_operands[t], out=of_input[t])
            of_hidden[t].addmm_(w_hidden, hidden_operands[t])
            sigmoids[t].sigmoid_()
            n[t].addcmul_(r[t], q[t]).tanh_()
            torch.lerp(n[t], h[t], z[t], out=h[t + 1])
        self._linearize()

    def _linearize(self) -> None:
        """Stores the factors F, (T, 5, H, B)."""
        self.factors = self.z.new_empty(self.steps, 5, self.size, self.batch)
        for part in chunks(self.steps, 3 * self.size * self.batch, self.z.device):
            (q, r, z, n), h = self.gates[part].unbind(1), self.z[part, : self.size]
            of_q, of_r, of_z, of_p, of_h = self.factors[part].unbind(1)
            of_h.copy_(z)
            torch.addcmul(z, z, z, value=-1.0, out=of_z).mul_(h - n)
            complement = 1.0 - z
            torch.addcmul(complement, complement * n, n, value=-1.0, out=of_p)
            torch.mul(of_p, r, out=of_q)
            torch.addcmul(of_q, of_q, r, value=-1.0, out=of_r).mul_(q)

    def reverse(
        self, out: Tensor | None, cell: Tensor | None, hidden: Tensor | None, local: Tensor | None, keep: bool
    ) -> Adjoint:
        """Sweeps back in time; see the base class."""
        steps, size, batch = self.steps, self.size, self.batch
        adjoint = self.z.new_empty(steps, 5, size, batch)
        rows = adjoint.view(steps, 5 * size, batch)
        blocks, of_hidden, carries = adjoint.unbind(0), rows[:, : 3 * size].unbind(0), adjoint[:, _H].unbind(0)
        factors, from_outside = self.factors.unbind(0), self.gradient_of_hidden(out, hidden)
        sources = None if local is None else local.unbind(0)
        # Gradients of the hidden state, for each step, or each step overwriting the one before.
        dh = self.z.new_empty(steps if keep else 1, size, batch)
        dh_t = dh.unbind(0) if keep else [dh[0]] * steps
        back = self.hidden_weight.t()
        for t in range(steps - 1, -1, -1):
            if t == steps - 1:
                dh_t[t].copy_(from_outside[t])
            else:
                torch.addmm(carries[t + 1], back, of_hidden[t + 1], out=dh_t[t]).add_(from_outside[t])
            if sources is None:
                torch.mul(factors[t], dh_t[t], out=blocks[t])
            else:
                torch.addcmul(sources[t], factors[t], dh_t[t], out=blocks[t])
        return Adjoint(rows[:, : 4 * size], h0=carries[0], kept=(dh,) if keep else ())

    def tangent(self, direction: Direction, keep: bool) -> Tangent:
        """Sweeps a direction forward in time; see the base class."""
        steps, size, batch = self.steps, self.size, self.batch
        # The blocks v of each step, of which the last is the hidden state, or each step overwriting the one
        # before.
        if keep:
            local = self.z.new_empty(self.local_shape)
            local[steps, :_H] = 0.0
            blocks, states, rows = local.unbind(0), local[:, _H].unbind(0), local[:steps].flatten(1, 2)[:, : 4 * size]
            hidden = local[1:, _H]
        else:
            local = self.z.new_empty(self.local_shape[1:])
            blocks, states, rows = [local] * steps, [local[_H]] * (steps + 1), local.flatten(0, 1)[: 4 * size]
            hidden = self.z.new_empty(self.hidden_shape)
        linear = LinearTangent(self, direction, rows)
        if direction.h0 is None:
            states[0].zero_()
        else:
            states[0].copy_(direction.h0.t())
        factors, h = self.factors.unbind(0), hidden.unbind(0)
        product = self.z.new_empty(5, size, batch)
        for t in range(steps):
            linear.step(t, states[t] if t > 0 or direction.h0 is not None else None)
            torch.mul(factors[t], blocks[t], out=product)
            torch.sum(product, 0, out=states[t + 1])
            if not keep:
                h[t].copy_(states[t + 1])
        return Tangent(hidden, local=local if keep else None)

    def curvature(self, adjoint: Adjoint, local: Tensor) -> Tensor:
        """Returns the second derivative of the steps times a tangent; see the base class.

        The function is the sum over t of dh_t (n(u) + z (h_{t-1} - n(u))) with u = p + r q, whose first
        derivative in u is what `adjoint` has for p. So the tangent of u and the derivative of that first
        derivative come first.
        """
        if not adjoint.coefficients:
            adjoint.coefficients, adjoint.kept = self._second_derivatives(adjoint), ()
        result = torch.empty_like(local)
        result[-1] = 0.0
        for part in chunks(self.steps, 3 * self.size * self.batch, local.device):
            uu, uz, zz, zh, qr, rr, slope = (coefficient[part] for coefficient in adjoint.coefficients)
            q, r, z, p, h = local[part].unbind(1)
            to_q, to_r, to_z, to_p, to_h = result[part].unbind(1)
            gate = self.gates[part, _R]
            u = torch.addcmul(p, gate, q).addcmul_(slope, r)
            torch.mul(uu, u, out=to_p).addcmul_(uz, z)
            torch.mul(gate, to_p, out=to_q).addcmul_(qr, r)
            torch.mul(slope, to_p, out=to_r).addcmul_(qr, q).addcmul_(rr, r)
            torch.mul(zz, z, out=to_z).addcmul_(uz, u).addcmul_(zh, h)
            torch.mul(zh, z, out=to_h)
        return result

    def _second_derivatives(self, adjoint: Adjoint) -> tuple[Tensor, ...]:
        """Returns the coefficients of pairs of variables, the last two with u held fixed, and du/da_r.

        Returns:
            (u u), (u z), (z z), (z h), (q r), (r r) and du/da_r, (T, H, B) each.
        """
        (dh,) = adjoint.kept
        _, of_r, of_z, of_p = adjoint.rows.unflatten(1, (4, self.size)).unbind(1)
        q, r, z, n = self.gates.unbind(1)
        slope_r, slope_z = r - r * r, z - z * z
        zh = dh * slope_z
        return (
            (of_p * n).mul_(-2.0),
            (zh * n).mul_(n).sub_(zh),
            torch.addcmul(of_z, of_z, z, value=-2.0),
            zh,
            of_p * slope_r,
            torch.addcmul(of_r, of_r, r, value=-2.0),
            slope_r.mul_(q),
        )
