"""Who saved a state, and whether another optimizer can go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError

STAMP = "made_by"
"""Key in a ``state_dict`` under which an optimizer says what it is; a state without it is looked at as it is."""

_OF_SCHEDULERS = ("params", "param_names", "initial_lr", "swa_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")


def stamp(optimizer: Any) -> dict[str, Any]:
    """Returns what a state has to fit: the method, the options that shape its memory, the parameters.

    Args:
        optimizer: Any optimizer of the library.
    """
    parameters = _parameters(optimizer)
    return {
        "method": method_of(optimizer),
        "layout": {name: getattr(optimizer.config, name) for name in optimizer.state_layout},
        "shapes": [list(parameter.shape) for parameter in parameters],
        "dtypes": [_name(parameter.dtype) for parameter in parameters],
    }


def method_of(optimizer: Any) -> str:
    """Returns what an optimizer is called in messages and in its state, with its members where it has some.

    Args:
        optimizer: Any optimizer of the library.
    """
    members = ", ".join(method_of(member) for member in getattr(optimizer, "_members", ()))
    return type(optimizer).__name__ + (f"({members})" if members else "")


def check_state(optimizer: Any, saved: Any) -> None:
    """Refuses a state that an optimizer cannot go on from, before anything of it is taken over.

    A state without a stamp (of bare torch, or of an older version of this library) is judged by its groups and by the
    shapes of what lies under the parameters.

    Args:
        optimizer: Who is to take it over.
        saved: What some ``state_dict()`` returned.

    Raises:
        ConfigError: If it was saved by another method, for other parameters, or with other options that shape it.
    """
    own = method_of(optimizer)
    if not _is_state(saved):
        entries = ", ".join(map(str, list(saved)[:4])) if isinstance(saved, Mapping) else ""
        found = f"one with {entries}" if entries else f"{type(saved).__name__} {saved!r:.30}"
        raise ConfigError(
            f"{own}.load_state_dict takes what its state_dict() returned, with state and param_groups, not {found}. "
            "Pass the optimizer's part of the checkpoint."
        )
    made_by = saved.get(STAMP)
    if not _is_stamp(made_by, sum(len(group["params"]) for group in saved["param_groups"])):
        made_by = None
    if made_by is not None and made_by["method"] != own:
        raise ConfigError(
            f"{own} cannot go on from this state: {made_by['method']} saved it. Load it into that method, or start "
            f"{own} without a state."
        )
    _check_groups(optimizer, saved, stamped=made_by is not None)
    if made_by is not None:
        _check_stamp(optimizer, saved, made_by)
    if optimizer.state_elementwise:
        _check_shapes(optimizer, saved["state"])


def _is_state(saved: Any) -> bool:
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        return False
    groups = saved.get("param_groups")
    return isinstance(groups, list | tuple) and all(
        isinstance(group, Mapping) and "params" in group for group in groups
    )


def _is_stamp(made_by: Any, parameters: int) -> bool:
    """Whether it says all that `stamp` says, about that many parameters."""
    if not (isinstance(made_by, Mapping) and {"method", "layout", "shapes", "dtypes"} <= made_by.keys()):
        return False
    return len(made_by["shapes"]) == len(made_by["dtypes"]) == parameters


def _check_groups(optimizer: Any, saved: Mapping[str, Any], *, stamped: bool) -> None:
    own, groups = method_of(optimizer), saved["param_groups"]
    sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in optimizer.param_groups]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"{own} cannot go on from this state: it has param groups of {_list(sizes[0])} parameters, the optimizer "
            f"of {_list(sizes[1])}. Build the model and the groups as they were when it was saved."
        )
    if stamped or not optimizer.param_groups:
        return
    for theirs, mine in zip(groups, optimizer.param_groups, strict=True):
        foreign = sorted(set(theirs) - set(mine) - set(_OF_SCHEDULERS))
        if foreign:
            raise ConfigError(
                f"{own} cannot go on from this state: another method saved it, whose param groups have "
                f"{', '.join(foreign)}. Load it into that method, or start {own} without a state."
            )


def _check_stamp(optimizer: Any, saved: Mapping[str, Any], made_by: Mapping[str, Any]) -> None:
    own, now = method_of(optimizer), stamp(optimizer)
    for place, (theirs, mine) in enumerate(zip(made_by["shapes"], now["shapes"], strict=True)):
        if list(theirs) != mine:
            raise ConfigError(
                f"{own} cannot go on from this state: it is of another model, whose {_told(optimizer, place)} has "
                f"shape {tuple(theirs)}, here {tuple(mine)}. Build the model and the groups as they were when it was "
                "saved, or start without a state."
            )
    for name, value in now["layout"].items():
        theirs = made_by["layout"].get(name, value)
        if theirs != value:
            raise ConfigError(
                f"{own} cannot go on from this state: it was saved with {name}={theirs!r}, here it is {value!r}, and "
                f"what the method remembers has another form. Create it with {name}={theirs!r}, or start without a "
                "state."
            )
    for place, (theirs, mine) in enumerate(zip(made_by["dtypes"], now["dtypes"], strict=True)):
        if theirs != mine and any(_keeps_dtype(key, value) for key, value in saved["state"].items()):
            raise ConfigError(
                f"{own} cannot go on from this state: {_told(optimizer, place)} was in {theirs}, here it is in {mine}, "
                "and what the method remembers keeps its precision. Convert the model to the dtype of then, or start "
                "without a state."
            )


def _check_shapes(optimizer: Any, state: Mapping[Any, Any]) -> None:
    """Each tensor that lies under a parameter stands for the whole of it, or for its rows or columns."""
    parameters = _parameters(optimizer)
    for place, entries in state.items():
        if isinstance(place, str) or not isinstance(entries, Mapping):
            continue
        wanted = tuple(parameters[place].shape) if place < len(parameters) else ()
        for name, value in entries.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                continue
            found = tuple(value.shape)
            if len(found) != len(wanted) or any(
                size not in (1, full) for size, full in zip(found, wanted, strict=True)
            ):
                raise ConfigError(
                    f"{method_of(optimizer)} cannot go on from this state: it is of another model, where {name} of "
                    f"{_told(optimizer, place)} has shape {found}; the parameter's is {wanted}. Build the model and "
                    "the groups as they were when it was saved, or start without a state."
                )


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _told(optimizer: Any, place: int) -> str:
    """A parameter in words: its number, and its name if the optimizer was given names."""
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    return f"parameter {place}" + (f" ({names[place]})" if place < len(names) else "")


def _keeps_dtype(key: Any, value: Any) -> bool:
    """Whether torch leaves the dtype of something when it loads it: what lies under text, and a ``step``."""
    if isinstance(key, str):
        return _holds_floats(value)
    step = value.get("step") if isinstance(value, Mapping) else None
    return isinstance(step, Tensor) and step.dim() > 0


def _holds_floats(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return any(_holds_floats(item) for item in items)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _list(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes)) or "no"
