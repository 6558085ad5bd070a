"""Sweeps over time of an LSTM layer.

Hochreiter and Schmidhuber 1997, with the forget gate of Gers, Schmidhuber and Cummins 2000:

    o, i, f = sigmoid(a_o, a_i, a_f),  g = tanh(a_g),  c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)

with a = P (h_{t-1}, 1, x_t). The nonlinear part of a step depends on five blocks of H rows,
v = (a_o, a_i, a_f, a_g, c_{t-1}). To first order

    c_t' = sum of F_k v_k' over the last four,      h_t' = F_o a_o' + E c_t',

and with the diagonal factors F and E stored, the tangent and the adjoint of a step are a few products of blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.objective.recurrent_sweeps import Adjoint, Direction, LinearTangent, Sweeps, Tangent, chunks

# Blocks of rows. The order keeps together what is treated alike: the sigmoids, the summands of the cell, and
# the pairs (i, f) and (g, c) whose products those summands are.
_O, _I, _F, _G, _C = range(5)


def pack(w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> list[Tensor]:
    """Packs torch's weights, differentiably.

    Args:
        w_ih: (4 H, I), gates in the order i, f, g, o.
        w_hh: (4 H, H).
        b_ih: (4 H,) or None.
        b_hh: (4 H,) or None.

    Returns:
        One matrix, (4 H, H + I) or (4 H, H + 1 + I), gates in the order o, i, f, g.
    """
    bias = [] if b_ih is None or b_hh is None else [(b_ih + b_hh)[:, None]]
    return [torch.cat([w_hh, *bias, w_ih], dim=1).roll(w_hh.shape[1], dims=0)]


class LSTMSweeps(Sweeps):
    """An LSTM layer; see the base class. Its weights come from `pack`."""

    @property
    def local_shape(self) -> tuple[int, ...]:
        """(T + 1, 5, H, B): the five blocks v of each step; of the last one only the cell counts."""
        return self.steps + 1, 5, self.size, self.batch

    def _forward(self, c0: Tensor | None) -> None:
        z, size, steps, batch = self.z, self.size, self.steps, self.batch
        self.gates = z.new_empty(steps, 4, size, batch)
        self.cells = z.new_empty(steps + 1, size, batch)
        self.squashed = z.new_empty(steps, size, batch)
        self.cells[0] = 0.0 if c0 is None else c0.t()
        (weight,) = self.weights
        rows, sigmoids = self.gates.view(steps, 4 * size, batch).unbind(0), self.gates[:, :3].unbind(0)
        o, i, f, g = (gate.unbind(0) for gate in self.gates.unbind(1))
        z_t, h, cells, squashed = z.unbind(0), z[:, :size].unbind(0), self.cells.unbind(0), self.squashed.unbind(0)
        for t in range(steps):
            torch.mm(weight, z_t[t], out=rows[t])
            sigmoids[t].sigmoid_()
            g[t].tanh_()
            cell = torch.mul(i[t], g[t], out=cells[t + 1]).addcmul_(f[t], cells[t])
            torch.mul(o[t], torch.tanh(cell, out=squashed[t]), out=h[t + 1])
        self._linearize()

    def _linearize(self) -> None:
        """Stores the factors F, (T, 5, H, B), and E, (T, H, B)."""
        self.factors = self.z.new_empty(self.steps, 5, self.size, self.batch)
        self.cell_to_hidden = torch.empty_like(self.squashed)
        for part in chunks(self.steps, 3 * self.size * self.batch, self.z.device):
            gates, factors, squashed = self.gates[part], self.factors[part], self.squashed[part]
            sigmoids, o, i, g = gates[:, :3], gates[:, _O], gates[:, _I], gates[:, _G]
            torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1.0, out=factors[:, :3])
            factors[:, _O].mul_(squashed)
            factors[:, _I].mul_(g)
            factors[:, _F].mul_(self.cells[part])
            torch.addcmul(i, i * g, g, value=-1.0, out=factors[:, _G])
            factors[:, _C] = gates[:, _F]
            torch.addcmul(o, o * squashed, squashed, value=-1.0, out=self.cell_to_hidden[part])

    def final_cell(self) -> Tensor:
        """Returns the final cell, (B, H), new."""
        return self.cells[-1].t().clone(memory_format=torch.contiguous_format)

    def reverse(
        self, out: Tensor | None, cell: Tensor | None, hidden: Tensor | None, local: Tensor | None, keep: bool
    ) -> Adjoint:
        """Sweeps back in time; see the base class."""
        steps, size, batch = self.steps, self.size, self.batch
        adjoint = self.z.new_empty(steps, 5, size, batch)
        rows = adjoint.view(steps, 5 * size, batch)[:, : 4 * size]
        rows_t, of_o, of_cell, carries = (
            part.unbind(0) for part in (rows, adjoint[:, _O], adjoint[:, 1:], adjoint[:, _C])
        )
        f_o, f_cell, e = self.factors[:, _O].unbind(0), self.factors[:, 1:].unbind(0), self.cell_to_hidden.unbind(0)
        # Gradients of the hidden state and of the cell, for each step, or each step overwriting the one
        # before.
        dh, dc = self.z.new_empty(2, steps if keep else 1, size, batch)
        dh_t, dc_t = (part.unbind(0) if keep else [part[0]] * steps for part in (dh, dc))
        from_outside = self.gradient_of_hidden(out, hidden)
        back = self.hidden_weight.t()
        carry = self.z.new_zeros(size, batch) if cell is None else cell.t().contiguous()
        if local is not None:
            carry = carry + local[steps, _C]
            s_o, s_cell = local[:, _O].unbind(0), local[:, 1:].unbind(0)
        for t in range(steps - 1, -1, -1):
            if t == steps - 1:
                dh_t[t].copy_(from_outside[t])
            else:
                torch.addmm(from_outside[t], back, rows_t[t + 1], out=dh_t[t])
            torch.addcmul(carry, e[t], dh_t[t], out=dc_t[t])
            if local is None:
                torch.mul(f_o[t], dh_t[t], out=of_o[t])
                torch.mul(f_cell[t], dc_t[t], out=of_cell[t])
            else:
                torch.addcmul(s_o[t], f_o[t], dh_t[t], out=of_o[t])
                torch.addcmul(s_cell[t], f_cell[t], dc_t[t], out=of_cell[t])
            carry = carries[t]
        return Adjoint(rows, c0=carry, kept=(dh, dc) if keep else ())

    def tangent(self, direction: Direction, keep: bool) -> Tangent:
        """Sweeps a direction forward in time; see the base class."""
        steps, size, batch = self.steps, self.size, self.batch
        hidden = self.z.new_empty(self.hidden_shape)
        # The blocks v of each step, or each step overwriting the one before.
        if keep:
            local = self.z.new_empty(self.local_shape)
            blocks, cells, rows = local.unbind(0), local[:, _C].unbind(0), local[:steps].flatten(1, 2)[:, : 4 * size]
        else:
            local = self.z.new_empty(self.local_shape[1:])
            blocks, cells, rows = [local] * steps, [local[_C]] * (steps + 1), local.flatten(0, 1)[: 4 * size]
        linear = LinearTangent(self, direction, rows)
        if direction.c0 is None:
            cells[0].zero_()
        else:
            cells[0].copy_(direction.c0.t())
        factors, e, h = self.factors.unbind(0), self.cell_to_hidden.unbind(0), hidden.unbind(0)
        product = self.z.new_empty(5, size, batch)
        to_hidden, to_cell = product[_O], product[1:]
        before = None if direction.h0 is None else direction.h0.t()
        for t in range(steps):
            linear.step(t, before)
            torch.mul(factors[t], blocks[t], out=product)
            torch.sum(to_cell, 0, out=cells[t + 1])
            before = torch.addcmul(to_hidden, e[t], cells[t + 1], out=h[t])
        return Tangent(hidden, cells[steps], local if keep else None)

    def curvature(self, adjoint: Adjoint, local: Tensor) -> Tensor:
        """Returns the second derivative of the steps times a tangent; see the base class.

        The function is the sum over t of dc_t (f c_{t-1} + i g) + dh_t o tanh(c_t), dc_t without what comes
        through h_t. It couples i with g, f with c_{t-1} and o with c_t; the rest of its Hessian is diagonal.
        """
        if not adjoint.coefficients:
            adjoint.coefficients, adjoint.kept = self._second_derivatives(adjoint), ()
        diagonal, pairs, o_with_cell = adjoint.coefficients
        result = torch.empty_like(local)
        for part in chunks(self.steps, 5 * self.size * self.batch, local.device):
            v, product = local[part], torch.mul(diagonal[part], local[part], out=result[part])
            product[:, 1:3].addcmul_(pairs[part], v[:, 3:5])
            product[:, 3:5].addcmul_(pairs[part], v[:, 1:3])
            product[:, _O].addcmul_(o_with_cell[part], local[part.start + 1 : part.stop + 1, _C])
        result[-1, :_C] = 0.0
        torch.mul(diagonal[-1, _C], local[-1, _C], out=result[-1, _C])
        result[1:, _C].addcmul_(o_with_cell, local[:-1, _O])
        return result

    def _second_derivatives(self, adjoint: Adjoint) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what is on the diagonal and what couples two variables.

        Returns:
            The diagonal, (T + 1, 5, H, B); (i g) and (f c_{t-1}), (T, 2, H, B); (o c_t), (T, H, B).
        """
        steps, size, batch = self.steps, self.size, self.batch
        rows = adjoint.rows.unflatten(1, (4, size))
        diagonal = self.z.new_empty(self.local_shape)
        pairs = self.z.new_empty(steps, 2, size, batch)
        o_with_cell = torch.empty_like(self.squashed)
        diagonal[0, _C] = 0.0
        for part in chunks(steps, 3 * size * batch, self.z.device):
            dh, dc = adjoint.kept[0][part], adjoint.kept[1][part]
            gates, i, f, g = self.gates[part], self.gates[part, _I], self.gates[part, _F], self.gates[part, _G]
            # sigmoid'' = sigmoid' (1 - 2 sigmoid) and tanh'' = -2 tanh tanh'; the rest of the product is in
            # rows.
            torch.addcmul(rows[part, :3], rows[part, :3], gates[:, :3], value=-2.0, out=diagonal[part, :3])
            torch.mul(rows[part, _G], g, out=diagonal[part, _G]).mul_(-2.0)
            torch.addcmul(dc, dc * g, g, value=-1.0, out=pairs[part, 0]).mul_(i - i * i)
            torch.mul(dc, f - f * f, out=pairs[part, 1])
            through_cell = dh * self.cell_to_hidden[part]
            torch.addcmul(through_cell, through_cell, gates[:, _O], value=-1.0, out=o_with_cell[part])
            after = diagonal[part.start + 1 : part.stop + 1, _C]
            torch.mul(through_cell, self.squashed[part], out=after).mul_(-2.0)
        return diagonal, pairs, o_with_cell
