"""The limited memory of L-BFGS: a ring buffer of pairs and its two-loop product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
                steps=torch.zeros(capacity, n, dtype=dtype, device=device),
                changes=torch.zeros(capacity, n, dtype=dtype, device=device),
                curvatures=[0.0] * capacity,
                count=0,
                head=0,
                gamma=1.0,
                skipped=0,
                damped=0,
            )
        self._state = state

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
        sy, ss, yy = (float(torch.dot(a, b)) for a, b in ((s, y), (s, s), (y, y)))
        if not (ss > 0 and torch.isfinite(torch.tensor([sy, ss, yy])).all()):
            state["skipped"] += 1
            return False
        if damping:
            curvature = ss / state["gamma"]
            if sy < 0.2 * curvature:
                share = 0.8 * curvature / (curvature - sy)
                y = share * y + (1 - share) / state["gamma"] * s
                sy, yy = float(torch.dot(s, y)), float(torch.dot(y, y))
                state["damped"] += 1
        if not sy > tolerance * (ss * yy) ** 0.5:
            state["skipped"] += 1
            return False
        head = state["head"]
        state["steps"][head].copy_(s)
        state["changes"][head].copy_(y)
        state["curvatures"][head] = sy
        capacity = state["steps"].shape[0]
        state["head"] = (head + 1) % capacity
        state["count"] = min(state["count"] + 1, capacity)
        state["gamma"] = sy / yy
        return True

    def clear(self) -> None:
        """Drops all pairs; the counts of skipped and damped ones stay."""
        self._state.update(count=0, head=0, gamma=1.0)

    def inverse_product(self, vector: Tensor) -> Tensor:
        """Returns H v for the L-BFGS inverse Hessian H (two-loop recursion, Nocedal and Wright 2006, Alg. 7.4).

        Args:
            vector: Shape (n,).

        Returns:
            Shape (n,), a new tensor.
        """
        state = self._state
        capacity = state["steps"].shape[0]
        order = [(state["head"] - 1 - age) % capacity for age in range(state["count"])]
        q = vector.clone()
        shares = {}
        for index in order:
            share = float(torch.dot(state["steps"][index], q)) / state["curvatures"][index]
            shares[index] = share
            q.add_(state["changes"][index], alpha=-share)
        q.mul_(state["gamma"])
        for index in reversed(order):
            share = float(torch.dot(state["changes"][index], q)) / state["curvatures"][index]
            q.add_(state["steps"][index], alpha=shares[index] - share)
        return q
