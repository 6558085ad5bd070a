"""Autocast that is on when a step begins: it is meant for the model's forward pass, and reaches nothing else.

Torch's autocast would also take the products of an optimizer's linear algebra into bfloat16, and its cache of cast
weights would serve one step's weights to the next, as nothing clears it before the outermost context ends.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Regions = tuple[tuple[str, torch.dtype], ...]
"""Kinds of devices for which autocast is on, and what it casts to."""

_KINDS = ("cpu", "cuda", "mps", "xpu")

is_on: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any kind of device; asked in every step, hence without a loop over them."""


def regions() -> Regions:
    """Returns the autocast that is on now."""
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in _KINDS if torch.is_autocast_enabled(kind))


def entered(wanted: Regions) -> AbstractContextManager[None]:
    """Returns a context with autocast on, without its cache of cast weights.

    Args:
        wanted: As `regions` returned it.
    """
    return _switched(wanted, True)


def left(wanted: Regions) -> AbstractContextManager[None]:
    """Returns a context with autocast off.

    Args:
        wanted: As `regions` returned it.
    """
    return _switched(wanted, False)


@contextmanager
def _switched(wanted: Regions, on: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for kind, dtype in wanted:
            stack.enter_context(torch.autocast(kind, dtype, on, cache_enabled=False if on else None))
        yield


def in_forward_only(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates ``step(self, objective)`` so that autocast around it holds in the objective's forward passes only.

    Args:
        step: The method.
    """

    @functools.wraps(step)
    def stepping(self: Any, objective: Any = None) -> Tensor:
        if not is_on() or not hasattr(objective, "autocast_in_forward"):
            return step(self, objective)
        with objective.autocast_in_forward():
            return step(self, objective)

    return stepping
