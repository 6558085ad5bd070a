"""Inverses that K-BFGS keeps up to date by pairs (s, y), and the damping of the pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the inner products of vectors, (groups, d) with (groups, d), as (groups, 1).

    Args:
        a: Vectors.
        b: Vectors.
    """
    return (a * b).sum(dim=1, keepdim=True)


def double_damping(s: Tensor, y: Tensor, hy: Tensor, powell: float, least: float) -> tuple[Tensor, Tensor]:
    """Returns a pair with as much curvature as it needs ("double damping", Goldfarb, Ren and Bahamou 2020).

    Powell's damping moves s towards H y until ``s'y >= powell y'H y``, then y towards s until ``s'y >= least s's``.

    Args:
        s: Steps, shape (groups, d).
        y: Changes of the gradient along them.
        hy: H y, for the inverse Hessian H that the pair is for.
        powell: The first constant, below 1.
        least: The second, below 1.
    """
    sy, yhy = dot(s, y), dot(y, hy)
    theta = torch.where(sy < powell * yhy, (1.0 - powell) * yhy / (yhy - sy), 1.0)
    s = theta * s + (1.0 - theta) * hy
    sy, ss = dot(s, y), dot(s, s)
    theta = torch.where(sy < least * ss, (1.0 - least) * ss / (ss - sy), 1.0)
    return s, theta * y + (1.0 - theta) * s


def bfgs(h: Tensor, s: Tensor, y: Tensor) -> Tensor:
    """Returns the BFGS update of an inverse, H itself where a pair has no positive curvature or is not finite.

    Args:
        h: Symmetric matrices, shape (groups, d, d).
        s: Steps, shape (groups, d).
        y: Changes of the gradient.
    """
    sy, hy = dot(s, y), (h @ y[..., None])[..., 0]
    # H + s q' + q s' in one pass over the matrix
    q = 0.5 * (dot(y, hy) + sy) / sy.square() * s - hy / sy
    good = (sy > 0) & torch.isfinite(q).all(dim=1, keepdim=True) & torch.isfinite(s).all(dim=1, keepdim=True)
    left = torch.where(good[..., None], torch.stack([s, q], dim=2), 0.0)
    return torch.baddbmm(h, left, left.flip(2).mT)


class LimitedMemory:
    """The last m pairs of a layer and the inverse that they make of the identity, without a matrix of its size.

    Args:
        state: Where the pairs live, a plain dict.
        capacity: m.
    """

    def __init__(self, state: dict[str, Any], capacity: int) -> None:
        state.setdefault("steps", [])
        state.setdefault("changes", [])
        self._state = state
        self._capacity = capacity

    def push(self, s: Tensor, y: Tensor) -> None:
        """Adds a pair, in place of the oldest when full; refused if a group's curvature is not positive.

        Args:
            s: Steps, shape (groups, d).
            y: Changes of the gradient.
        """
        sy = dot(s, y)
        if not bool(((sy > 0) & torch.isfinite(s / sy) & torch.isfinite(y / sy)).all()):
            return
        for name, vector in (("steps", s), ("changes", y)):
            self._state[name] = [*self._state[name], vector.clone()][-self._capacity :]

    def product(self, v: Tensor) -> Tensor:
        """Returns H V by the compact form (Byrd, Nocedal and Schnabel 1994, Theorem 2.2) with H0 = I.

        Args:
            v: Shape (groups, d, columns).
        """
        if not self._state["steps"]:
            return v
        s, y = torch.stack(self._state["steps"], dim=2), torch.stack(self._state["changes"], dim=2)
        products = s.mT @ y
        upper, diagonal = products.triu(), products.diagonal(dim1=1, dim2=2)
        # H V = V + S R^-T ((D + Y'Y) R^-1 S'V - Y'V) - Y R^-1 S'V
        inner = torch.linalg.solve_triangular(upper, s.mT @ v, upper=True)
        outer = diagonal[..., None] * inner + y.mT @ (y @ inner) - y.mT @ v
        return v + s @ torch.linalg.solve_triangular(upper.mT, outer, upper=False) - y @ inner
