"""Parameters that were converted to another dtype, or moved to another device, after an optimizer was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError
from hybridopt.escape.snapshot import copy_state

Kind = tuple[torch.dtype, torch.device]

_HALF = (torch.bfloat16, torch.float16)


def kinds(optimizer: Any) -> dict[int, Kind]:
    """Returns dtype and device of each parameter, by its id.

    Args:
        optimizer: Any optimizer of the library.
    """
    return {id(p): (p.dtype, p.device) for group in optimizer.param_groups for p in group["params"]}


def check_precision(optimizer: Any) -> None:
    """Refuses parameters in 16 bits where a method needs more.

    Args:
        optimizer: Any optimizer of the library.

    Raises:
        ConfigError: If it cannot work in the dtype of one of its parameters.
    """
    if optimizer.half_precision:
        return
    low = {dtype for dtype, _ in kinds(optimizer).values() if dtype in _HALF}
    if low:
        raise ConfigError(
            f"{type(optimizer).__name__} needs parameters in float32 or float64: its linear algebra has too few digits "
            f"in {_name(low.pop())}, or does not exist there. Keep the parameters in float32 and put bfloat16 autocast "
            "around the step or inside the model's forward, or use adam or lbfgs, which work in bfloat16."
        )


def follow(optimizer: Any, before: Mapping[int, Kind]) -> None:
    """Brings the state to the parameters' present dtypes and devices, where nothing is rounded by that.

    A state follows to any device, and to a dtype with more digits if all of it lies under parameters, as that of
    first-order methods does. What else a method remembers (pairs, radii, a basis) was computed in the old dtype. So
    was what an optimizer from outside keeps under one parameter in another shape (`torch.optim.LBFGS`, under the first,
    about all), where only some are converted.

    Args:
        optimizer: Any optimizer of the library.
        before: What `kinds` returned when the state was made.

    Raises:
        ConfigError: If the state cannot follow, or the method cannot work in the new dtype.
    """
    check_precision(optimizer)
    state = optimizer.state
    changed = [
        (p, before[id(p)])
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) in before and before[id(p)] != (p.dtype, p.device)
    ]
    cast = [(p, was) for p, (was, _) in changed if p.dtype != was]
    in_part = 0 < len(cast) < len(before)
    shared_state = [state[key] for key in state if isinstance(key, str)]
    if in_part and not optimizer.state_of_its_own:
        shared_state += [_of_other_shape(state[key], key.shape) for key in state if isinstance(key, Tensor)]
    for parameter, was in cast:
        held = _any(state.get(parameter, {}), was)
        shared = any(_any(value, was) for value in shared_state)
        if shared or (held and torch.promote_types(was, parameter.dtype) != parameter.dtype):
            raise ConfigError(
                f"{'Some of the' if in_part else 'The'} parameters were converted from {_name(was)} to "
                f"{_name(parameter.dtype)} after {type(optimizer).__name__} was made, and what it remembers by now "
                "cannot follow. Convert the model first and make the optimizer then; to go on from here, make a new "
                "one."
            )
    for parameter, was in cast:
        for name, value in state.get(parameter, {}).items():
            if not _is_counter(name, value):
                state[parameter][name] = _cast(value, was, parameter.dtype)
    moved = [p for p, (_, device) in changed if p.device != device]
    if moved:
        _move(optimizer, moved)


def _move(optimizer: Any, parameters: list[Tensor]) -> None:
    state = optimizer.state
    places = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for parameter in parameters:
        group = places[id(parameter)]
        # Torch keeps the counter on the host, but for the kernels that read it on the device.
        on_host = not (group.get("fused") or group.get("capturable"))
        for name, value in state.get(parameter, {}).items():
            if not (on_host and _is_counter(name, value)):
                state[parameter][name] = copy_state(value, parameter.device)
    for key in [key for key in state if isinstance(key, str)]:
        moved = copy_state(state[key], parameters[0].device)
        if isinstance(state[key], dict):
            state[key].update(moved)  # hybrids and escapes may hold the very dict
        else:
            state[key] = moved


def _cast(value: Any, was: torch.dtype, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype == was else value
    if isinstance(value, Mapping):
        return {name: _cast(item, was, dtype) for name, item in value.items()}
    return [_cast(item, was, dtype) for item in value] if isinstance(value, list) else value


def _any(value: Any, dtype: torch.dtype) -> bool:
    """Whether there is a tensor of a dtype in nested state."""
    if isinstance(value, Tensor):
        return value.dtype == dtype
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return any(not _is_counter(name, item) and _any(item, dtype) for name, item in items)


def _of_other_shape(state: Mapping[str, Any], shape: torch.Size) -> dict[str, Any]:
    return {name: x for name, x in state.items() if not (isinstance(x, Tensor) and (x.dim() == 0 or x.shape == shape))}


def _is_counter(name: Any, value: Any) -> bool:
    """Whether it is the count of steps that torch's methods keep as a tensor, in float32 whatever the parameters."""
    return name == "step" and isinstance(value, Tensor) and value.dim() == 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
