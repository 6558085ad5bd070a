"""Vectors on their device, scalars in double precision, one host read an iteration.

A Krylov loop needs a few inner products an iteration and decides on them. On the CPU reading a scalar is free
and a Python float is the cheapest scalar there is. On an accelerator each read waits for the queue, so there
the scalars stay zero-dimensional float64 tensors until one `read` fetches all of an iteration's together.
`HostScalars` and `DeviceScalars` give the same loop both ways: a step length is computed *and applied* before
the host has seen the curvature it came from, with the refused cases mapped to a step of zero (or to the
boundary).

Inner products use `torch.dot` in the vectors' precision (relative error about 1e-6 for a million float32
terms of one sign) and are combined in float64. Converting the vectors first costs ten times the memory
traffic for nothing that shows: every quantity that is compared or summed here is a sum of terms of one sign.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hybridopt.core.errors import ConfigError

Scalar = float | Tensor


class HostScalars:
    """Scalars are Python floats (CPU)."""

    @staticmethod
    def dot(x: Tensor, y: Tensor) -> float:
        """Returns x'y."""
        return torch.dot(x, y).item()

    @staticmethod
    def axpy_(y: Tensor, alpha: float, x: Tensor) -> None:
        """Adds ``alpha * x`` to y in place."""
        y.add_(x, alpha=alpha)

    @staticmethod
    def read(*values: float) -> tuple[float, ...]:
        """Returns the values as floats."""
        return values

    @staticmethod
    def cg_step(rz: float, pq: float, limit: float, largest: float) -> float:
        """Returns ``rz / pq`` where the curvature pq allows it, else zero."""
        return rz / pq if pq > limit and rz < largest * pq else 0.0

    @staticmethod
    def trust_step(rz: float, pq: float, forward: float, backward: float, flip: float) -> float:
        """Returns the step along p that minimises the model within the trust region.

        Args:
            rz: Negative slope of the model along p, positive.
            pq: Curvature of the model along p.
            forward: Positive step to the boundary.
            backward: Negative step to the boundary.
            flip: The backward end is the lower one when ``-flip * pq > rz``.
        """
        if not math.isfinite(pq):
            return 0.0
        if pq > 0:
            return rz / pq if rz < forward * pq else forward
        return backward if -flip * pq > rz else forward


class DeviceScalars:
    """Scalars are zero-dimensional float64 tensors beside the vectors (accelerators)."""

    @staticmethod
    def dot(x: Tensor, y: Tensor) -> Tensor:
        """Returns x'y."""
        return torch.dot(x, y).double()

    @staticmethod
    def axpy_(y: Tensor, alpha: Tensor, x: Tensor) -> None:
        """Adds ``alpha * x`` to y in place."""
        y.addcmul_(x, alpha.to(y.dtype))

    @staticmethod
    def read(*values: Scalar) -> tuple[float, ...]:
        """Returns the values as floats, with one wait for the device."""
        tensors = [value for value in values if isinstance(value, Tensor)]
        fetched = iter(torch.stack(tensors).tolist())
        return tuple(next(fetched) if isinstance(value, Tensor) else value for value in values)

    @staticmethod
    def cg_step(rz: float, pq: Tensor, limit: Scalar, largest: float) -> Tensor:
        """Returns ``rz / pq`` where the curvature pq allows it, else zero."""
        return torch.where((pq > limit) & (rz < largest * pq), rz / pq, 0.0)

    @staticmethod
    def trust_step(rz: float, pq: Tensor, forward: float, backward: float, flip: float) -> Tensor:
        """Returns the step along p that minimises the model within the trust region; see `HostScalars`."""
        boundary = torch.where(-flip * pq > rz, backward, forward).double()
        step = torch.where(pq > 0, (rz / pq).clamp(max=forward), boundary)
        return torch.where(torch.isfinite(pq), step, 0.0)


def scalars_for(device: torch.device) -> type[HostScalars] | type[DeviceScalars]:
    """Returns the scalar arithmetic that suits a device."""
    return HostScalars if device.type == "cpu" else DeviceScalars


def product(operator: Any, vector: Tensor) -> Tensor:
    """Returns ``operator @ vector`` without an autograd history."""
    return (operator @ vector).detach()


def check_vector(name: str, vector: Tensor) -> Tensor:
    """Returns a vector without its autograd history.

    Args:
        name: What the caller calls it.
        vector: The vector.

    Returns:
        The vector, detached and contiguous.

    Raises:
        ConfigError: It is not a one-dimensional float32 or float64 tensor.
    """
    if not isinstance(vector, Tensor) or vector.ndim != 1 or vector.dtype not in (torch.float32, torch.float64):
        what = f"{vector.dtype} of shape {tuple(vector.shape)}" if isinstance(vector, Tensor) else type(vector).__name__
        raise ConfigError(
            f"{name} must be a flat float32 or float64 tensor of shape (n,), but it is {what}. "
            "Flatten it with torch.cat([t.reshape(-1) for t in tensors]), convert other dtypes with .float()."
        )
    return vector.detach().contiguous()


def check_tolerances(rtol: float, atol: float, max_iter: int | None, n: int) -> int:
    """Returns the iteration limit, 2 n by default.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_iter: The limit that was asked for, or None.
        n: Length of the vectors.

    Returns:
        The limit: rounding delays the n-step termination of exact arithmetic, hence twice n.

    Raises:
        ConfigError: A tolerance is negative or NaN, or the limit is negative.
    """
    if not (rtol >= 0 and atol >= 0):
        raise ConfigError(f"rtol and atol must be numbers >= 0, got rtol={rtol}, atol={atol}.")
    if max_iter is not None and max_iter < 0:
        raise ConfigError(f"max_iter must be >= 0 or None (twice the length of the vectors), got {max_iter}.")
    return 2 * n if max_iter is None else max_iter
