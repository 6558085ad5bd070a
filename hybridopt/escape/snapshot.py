"""What an escape goes back to: parameters, buffers and the optimizer's own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridopt.objective import Objective

STATE = "escape"
"""Key in the optimizer's state under which an escape remembers, so that checkpoints hold it."""


def take(optimizer: Any, objective: Objective) -> dict[str, Any]:
    """Returns a copy of everything that an undone escape puts back, fit for a checkpoint.

    Args:
        optimizer: Its state, but for the escape's own, is copied.
        objective: Bound to its parameters.

    Returns:
        ``position`` (shape (n,)), ``buffers`` (of the model: BatchNorm's statistics, say) and ``state``, in which a
        parameter's state lies under ``#`` and its place in the groups.
    """
    places = {id(p): place for place, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state = {
        (key if isinstance(key, str) else f"#{places[id(key)]}"): copy_state(value)
        for key, value in optimizer.state.items()
        if key != STATE
    }
    buffers = [table[name].detach().clone() for table, name in objective.slots._buffers]
    return {"position": objective.position(), "buffers": buffers, "state": state}


def fits(snapshot: dict[str, Any], objective: Objective) -> bool:
    """Returns whether a snapshot is one of these parameters; not if some were frozen or thawed since.

    Args:
        snapshot: From `take`.
        objective: Bound to the optimizer's parameters.
    """
    return snapshot["position"].numel() == objective.space.n


def put_back(snapshot: dict[str, Any], optimizer: Any, objective: Objective) -> None:
    """Makes parameters, buffers and state what they were, to the last bit.

    Args:
        snapshot: From `take`.
        optimizer: The same one, or one that loaded its state.
        objective: Bound to its parameters.
    """
    objective.commit(snapshot["position"])
    with torch.no_grad():
        objective.slots.adopt_buffers(snapshot["buffers"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key in [key for key in optimizer.state if key != STATE]:
        del optimizer.state[key]
    for key, value in snapshot["state"].items():
        optimizer.state[parameters[int(key[1:])] if key.startswith("#") else key] = copy_state(value)


def copy_state(value: Any, device: torch.device | None = None) -> Any:
    """Returns a deep copy of state: tensors cloned (and moved, if a device is given), containers rebuilt.

    Generator states (uint8) stay on the CPU, where torch wants them.

    Args:
        value: Tensors, plain values, and lists or dicts of them.
        device: Where to, or None to stay.
    """
    if isinstance(value, Tensor):
        stays = device is None or value.dtype == torch.uint8
        return value.detach().clone() if stays else value.detach().to(device, copy=True)
    if isinstance(value, Mapping):
        return {key: copy_state(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copy_state(item, device) for item in value]
    return value
