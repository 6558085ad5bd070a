"""Comparing states and parameters to the last bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hybridopt.testing.outcome import require


def flat_state(value: Any, path: str = "") -> dict[str, Any]:
    """Returns nested state as one dict from paths to tensors and plain values.

    Args:
        value: Dicts, lists and leaves.
        path: Where it stands.
    """
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {path: value}
    return {key: leaf for name, item in items for key, leaf in flat_state(item, f"{path}/{name}").items()}


def assert_same_state(actual: Any, expected: Any) -> None:
    """Requires that two nested states are equal to the last bit, dtypes and types included.

    Args:
        actual: One.
        expected: The other.

    Raises:
        Failure: If they are not.
    """
    left, right = flat_state(actual), flat_state(expected)
    require(left.keys() == right.keys(), f"only in one state: {sorted(left.keys() ^ right.keys())}")
    for path, wanted in right.items():
        got = left[path]
        require(type(got) is type(wanted), f"{path}: {type(got).__name__} instead of {type(wanted).__name__}")
        if isinstance(wanted, Tensor):
            require(got.dtype == wanted.dtype, f"{path}: {got.dtype} instead of {wanted.dtype}")
            shapes = f"{path}: shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
            require(got.shape == wanted.shape, shapes)
            same = got.detach().cpu().numpy().tobytes() == wanted.detach().cpu().numpy().tobytes()
            require(same, f"{path} differs")
        elif wanted == wanted:
            require(got == wanted, f"{path}: {got!r} instead of {wanted!r}")


def same(parameters: Iterable[Tensor], before: Iterable[Tensor]) -> bool:
    """Returns whether tensors are equal to the last bit.

    Args:
        parameters: Some.
        before: Others, as many.
    """
    return all(torch.equal(now.detach(), was) for now, was in zip(parameters, before, strict=True))
