"""Small pieces of arithmetic on lists of tensors that stay on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def scalar(value: float, tensors: Iterable[Tensor]) -> Tensor:
    """Returns a 0-dim tensor on the device of some tensors, in their highest precision and at least float32.

    Args:
        value: Its value.
        tensors: Whose company it keeps; none means float32 on the CPU.
    """
    tensors = list(tensors)
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.tensor(value, dtype=dtype, device=tensors[0].device if tensors else None)


def inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Returns the inner product of two lists of tensors taken as one vector, as a 0-dim tensor (see `scalar`).

    Args:
        left: Of any shapes, at least one.
        right: In the same shapes.
    """
    return total([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(left, right, strict=True)])


def total(values: Sequence[Tensor]) -> Tensor:
    """Returns the sum of 0-dim tensors, in their highest precision and at least float32.

    Args:
        values: At least one, perhaps on several devices.
    """
    dtype, device = values[0].dtype, values[0].device
    if dtype in (torch.float32, torch.float64) and all(v.dtype == dtype and v.device == device for v in values):
        return torch.stack(list(values)).sum()
    dtype = torch.float32
    for value in values:
        dtype = torch.promote_types(dtype, value.dtype)
    return torch.stack([value.to(device=device, dtype=dtype) for value in values]).sum()


def subtract_scaled(parameters: Sequence[Tensor], tensors: Sequence[Tensor], rate: Tensor) -> None:
    """Subtracts tensors times a number that is not on the host, in place.

    Args:
        parameters: What is changed.
        tensors: One per parameter, left as they are.
        rate: 0-dim tensor.
    """
    if parameters[0].is_cpu:
        # One pass over the memory; elsewhere the two calls are two kernels for the whole list.
        torch._foreach_addcmul_(list(parameters), list(tensors), [rate] * len(parameters), value=-1.0)
    else:
        torch._foreach_sub_(list(parameters), torch._foreach_mul(list(tensors), rate))


@contextmanager
def holding(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Context in which parameters hold other values; afterwards they are what they were, to the last bit.

    Args:
        parameters: Written in place.
        values: One per parameter, copied.
    """
    if not parameters:
        yield
        return
    with torch.no_grad():
        kept = [parameter.detach().clone() for parameter in parameters]
        torch._foreach_copy_(list(parameters), list(values))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(parameters), kept)
