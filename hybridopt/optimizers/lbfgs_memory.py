"""The limited memory of L-BFGS: a ring buffer of pairs, and the two-loop recursion as products with matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hybridopt.optimizers import long_rows

_CANCELLATION = 10.0  # a difference of products may be this much shorter than they are


class PairMemory:
    """The last m pairs (s, y), kept in two matrices that are allocated once.

    All state is a plain dict, so it goes into a checkpoint as it is.

    Args:
        state: Where the pairs live; filled in when empty, or when they are of another length (a parameter was frozen).
        capacity: How many pairs are kept, m.
        n: Length of a vector.
        dtype: Of the vectors.
        device: Of the vectors.
    """

    def __init__(
        self, state: dict[str, Any], capacity: int, n: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        if not state or state["steps"].shape[1] != n:
            state.update(
                steps=long_rows.zeros(capacity, n, dtype=dtype, device=device),
                changes=long_rows.zeros(capacity, n, dtype=dtype, device=device),
                overlaps=torch.zeros(capacity, capacity, dtype=torch.float64, device="cpu"),
                products=[0.0] * capacity,
                follows=False,
                complete=True,
                curvatures=[0.0] * capacity,
                count=0,
                head=0,
                gamma=1.0,
                skipped=0,
                damped=0,
            )
        # Loading a checkpoint moves tensors to the device of the parameters; this one is for the host.
        state["overlaps"] = state["overlaps"].cpu()
        state["steps"], state["changes"] = map(long_rows.settled, (state["steps"], state["changes"]))
        self._state = state
        self.last_step = 0.0
        """Length of the step that was pushed last."""

    def __len__(self) -> int:
        return self._state["count"]

    @property
    def gamma(self) -> float:
        """Scale of the initial inverse Hessian, s'y / y'y of the last pair (Liu and Nocedal 1989)."""
        return self._state["gamma"]

    @property
    def skipped(self) -> int:
        """Pairs refused so far."""
        return self._state["skipped"]

    @property
    def damped(self) -> int:
        """Pairs changed by Powell's damping so far."""
        return self._state["damped"]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Returns copies of the steps and of the changes, oldest first, each of shape (count, n)."""
        count, shift = self._state["count"], self._shift()
        steps, changes = (torch.roll(self._state[name][:count], -shift, 0) for name in ("steps", "changes"))
        return steps, changes

    def push(self, s: Tensor, y: Tensor, *, damping: bool, tolerance: float = 1e-8) -> bool:
        """Adds a pair, in place of the oldest when full.

        Args:
            s: Step, shape (n,).
            y: Change of the gradient along it, shape (n,).
            damping: Whether a pair without enough curvature is mended as Powell 1978 does, with the initial matrix
                1 / gamma in the place of B: y becomes t y + (1 - t) s / gamma such that s'y = 0.2 s's / gamma.
                Otherwise it is refused.
            tolerance: Without damping, a pair needs s'y > tolerance ||s|| ||y||.

        Returns:
            Whether the pair was taken.
        """
        state = self._state
        # One read for all three: each would make an accelerator wait.
        sy, ss, yy = torch.stack([torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)]).tolist()
        self.last_step = math.sqrt(ss) if ss >= 0 else math.nan
        follows = True
        if not (ss > 0 and all(map(math.isfinite, (sy, ss, yy)))):
            return self._refuse()
        if damping:
            curvature = ss / state["gamma"]
            if sy < 0.2 * curvature:
                share = 0.8 * curvature / (curvature - sy)
                y = share * y + (1 - share) / state["gamma"] * s
                sy, yy = float(torch.dot(s, y)), float(torch.dot(y, y))
                state["damped"] += 1
                follows = False
        if not sy > tolerance * math.sqrt(ss) * math.sqrt(yy):
            return self._refuse()
        self._complete()
        head = state["head"]
        state["steps"][head].copy_(s)
        state["changes"][head].copy_(y)
        state["curvatures"][head] = sy
        capacity = state["steps"].shape[0]
        state["head"] = (head + 1) % capacity
        state["count"] = min(state["count"] + 1, capacity)
        state["gamma"] = sy / yy
        state["complete"] = False
        state["follows"] = follows and state["follows"]
        return True

    def _refuse(self) -> bool:
        self._state["skipped"] += 1
        self._state["follows"] = False
        return False

    def clear(self) -> None:
        """Drops all pairs; the counts of skipped and damped ones stay."""
        self._state.update(count=0, head=0, gamma=1.0, complete=True, follows=False)

    def inverse_product(
        self,
        vector: Tensor,
        *,
        out: Tensor | None = None,
        sign: float = 1.0,
        follows: bool = False,
        length: float | None = None,
    ) -> Tensor:
        """Returns H v for the L-BFGS inverse Hessian H (Nocedal and Wright 2006, Algorithm 7.4).

        The two loops of the recursion are the triangular systems ``R a = S v`` and ``R' z = D a - gamma Y q`` with
        ``q = v - Y' a`` and the result ``gamma q + S' z``, where R is the upper triangle and D the diagonal of S Y'
        (Byrd, Nocedal and Schnabel 1994): products with S, Y, Y and S, the two with Y in one pass over it.

        Args:
            vector: Shape (n,).
            out: Where to; a new tensor when None.
            sign: What it is multiplied by, 1 or -1.
            follows: Whether `vector` is the one of the last call plus the y of the pair pushed since: a new gradient
                on the same data. The products of the new y with all steps are then differences of known ones.
            length: Length of `vector`, where it is known.

        Returns:
            Shape (n,).
        """
        state = self._state
        if state["count"] == 0:
            state["follows"] = False
            return torch.mul(vector, sign * state["gamma"], out=out)
        rows = slice(0, state["count"])
        steps, changes = state["steps"][rows], state["changes"][rows]
        products = long_rows.inner(steps, vector)
        if not state["complete"]:
            if length is None:
                length = float(torch.linalg.vector_norm(vector))
            self._complete(products if follows and state["follows"] else None, length)
        state["products"][rows] = products.tolist()
        state["follows"] = True
        # The systems are in order of age, the matrices in order of places.
        shift = self._shift()
        triangle = _rolled(state["overlaps"][rows, rows], -shift)  # below the diagonal lies what is not asked for
        curvature = _rolled(torch.tensor(state["curvatures"][rows], dtype=torch.float64, device="cpu"), -shift)
        right = sign * _rolled(products, -shift)
        shares = torch.linalg.solve_triangular(triangle, right[:, None], upper=True)[:, 0]
        factors = _rolled(-shares, shift).to(vector.device, vector.dtype)
        q, bends = long_rows.combine_inner(changes, factors, vector, beta=sign, out=out)
        right = curvature * shares - state["gamma"] * _rolled(bends, -shift)
        rest = torch.linalg.solve_triangular(triangle.t(), right[:, None], upper=False)[:, 0]
        factors = _rolled(rest, shift).to(vector.device, vector.dtype)
        return long_rows.combine(steps, factors, q, beta=state["gamma"], out=q)

    def _shift(self) -> int:
        """The place of the oldest pair; the others follow, around the end."""
        return self._state["head"] % max(self._state["count"], 1)

    def _complete(self, products: Tensor | None = None, length: float = 0.0) -> None:
        """Enters s'y of the newest y with all steps, put off until it may cost nothing.

        Args:
            products: S v of a vector v that is the last one plus the newest y, or None.
            length: Length of that v.
        """
        state = self._state
        if state["complete"]:
            return
        count, capacity = state["count"], state["steps"].shape[0]
        newest = (state["head"] - 1) % capacity
        # Where y is much shorter than v, the difference would be rounding.
        if products is None or length > _CANCELLATION * math.sqrt(state["curvatures"][newest] / state["gamma"]):
            column = long_rows.inner(state["steps"][:count], state["changes"][newest])
        else:
            column = products - torch.tensor(state["products"][:count], dtype=torch.float64, device="cpu")
        state["overlaps"][:count, newest] = column
        state["overlaps"][newest, newest] = state["curvatures"][newest]
        state["complete"] = True


def _rolled(values: Tensor, shift: int) -> Tensor:
    """Values, or a matrix of them, with all places moved on around the end."""
    return torch.roll(values, (shift,) * values.dim(), tuple(range(values.dim()))) if shift else values
