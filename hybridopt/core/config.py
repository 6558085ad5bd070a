"""Typed, range-checked configuration dataclasses.

A part of the library (an optimizer, an escape, a task) declares its options once, as a dataclass whose fields are
made by `option`. That dataclass is the signature in Python, the schema on the command line and the declaration of
the search space for tuning. Field types are the ones that OmegaConf accepts too: bool, int, float, str, `Optional`
of those, `Enum`, and lists or dicts of those, so this room never has to import it.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from hybridopt.core.errors import ConfigError, suggest

ConfigT = TypeVar("ConfigT")

_BOUNDS = {
    "ge": (lambda value, bound: value >= bound, ">="),
    "gt": (lambda value, bound: value > bound, ">"),
    "le": (lambda value, bound: value <= bound, "<="),
    "lt": (lambda value, bound: value < bound, "<"),
}


def option(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[Any] | None = None,
    search: tuple[str, float, float] | Sequence[Any] | None = None,
    help: str = "",
) -> Any:
    """Declares one option of a config dataclass.

    Args:
        default: Value when the user gives none. A list or dict is copied for every instance.
        ge: Smallest allowed value.
        gt: Value must be larger than this.
        le: Largest allowed value.
        lt: Value must be smaller than this.
        choices: The allowed values, when there are few.
        search: Where tuning looks: ``("log", low, high)``, ``("uniform", low, high)`` or a list of values.
        help: One line for `--help`, the docs and the error message.

    Returns:
        A dataclass field.
    """
    bounds = {name: bound for name, bound in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if bound is not None}
    metadata = {"bounds": bounds, "choices": choices, "search": search, "help": help}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def make_config(cls: type[ConfigT], values: Mapping[str, Any] | None = None, *, owner: str = "") -> ConfigT:
    """Builds a config from plain values and checks it.

    Args:
        cls: A config dataclass.
        values: Option names and values; missing ones take their defaults. A mapping given for a field that is
            itself a config dataclass builds that one.
        owner: Who the options belong to, for the error message; the class's name when empty.

    Returns:
        The checked instance.

    Raises:
        ConfigError: If a name is unknown, or a value has the wrong type or is out of range.

    Example:
        >>> @dataclasses.dataclass
        ... class Config:
        ...     lr: float = option(0.1, gt=0)
        >>> make_config(Config, {"lr": 1})
        Config(lr=1.0)
        >>> make_config(Config, {"rl": 1}, owner="sgd")
        Traceback (most recent call last):
        ...
        hybridopt.core.errors.ConfigError: sgd has no option 'rl'. Its options are: lr.
    """
    owner = owner or cls.__qualname__
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values or {}:
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise ConfigError(f"{owner} has no option {name!r}.{suggest(name, fields)} Its options are: {known}.")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in (values or {}):
            raise ConfigError(f"{owner} needs a value for its option {name!r}, which has no default.")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in (values or {}).items():
        nested = hints[name]
        if dataclasses.is_dataclass(nested) and isinstance(value, Mapping):
            arguments[name] = make_config(nested, value, owner=f"{owner}.{name}")
        else:
            arguments[name] = value
    return check(cls(**arguments), owner=owner)


def check(config: ConfigT, *, owner: str = "") -> ConfigT:
    """Checks types and ranges of a config in place; an int given for a float becomes one.

    Args:
        config: An instance of a config dataclass.
        owner: Who the options belong to, for the error message; the class's name when empty.

    A config that has a method ``validate(owner)`` is asked by it as well, once every value is known to be right by
    itself: there it refuses values that do not go together.

    Returns:
        The same instance.

    Raises:
        ConfigError: If a value has the wrong type or is out of range, or values do not go together.
    """
    owner = owner or type(config).__qualname__
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        label = f"{owner}.{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if dataclasses.is_dataclass(hints[field.name]):
                _coerce(value, hints[field.name], label, field.metadata.get("help", ""))
            check(value, owner=label)
            continue
        value = _coerce(value, hints[field.name], label, field.metadata.get("help", ""))
        object.__setattr__(config, field.name, value)
        _check_range(value, field.metadata, label)
    if callable(validate := getattr(config, "validate", None)):
        validate(owner)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain nested dicts of plain values (enums by value), fit for YAML and JSON.

    Args:
        config: An instance of a config dataclass.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return plain(dataclasses.asdict(config))


def _coerce(value: Any, hint: Any, label: str, help: str) -> Any:
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        allowed = typing.get_args(hint)
        if value is None and type(None) in allowed:
            return None
        rest = [part for part in allowed if part is not type(None)]
        for part in rest:
            if isinstance(part, type) and type(value) is part:
                return value
        return _coerce(value, rest[0], label, help)
    if origin in (list, dict, tuple):
        if origin is list and isinstance(value, tuple):
            value = list(value)
        if not isinstance(value, origin):
            raise _wrong_type(value, hint, label, help)
        of = typing.get_args(hint)
        if origin is list:
            return [_coerce(item, of[0], f"{label}[{place}]", help) for place, item in enumerate(value)]
        if origin is dict:
            return {
                _coerce(key, of[0], f"a key of {label}", help): _coerce(item, of[1], f"{label}[{key!r}]", help)
                for key, item in value.items()
            }
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            names = ", ".join(str(member.value) for member in hint)
            near = suggest(str(value), [str(member.value) for member in hint])
            raise ConfigError(f"{label} must be one of {names}, not {value!r}.{near}") from None
    if hint in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, int | float):
        # NumPy's scalars: what loops over np.arange and np.logspace hand over.
        value = int(value) if isinstance(value, numbers.Integral) else float(value)
    if hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if math.isnan(value):
                raise ConfigError(f"{label} must be a number, not nan.")
            return float(value)
        if isinstance(value, str):
            # YAML 1.1 reads "1e-3" (no dot) as a string; whoever writes it means the number.
            try:
                return _coerce(float(value), float, label, help)
            except ValueError:
                raise _wrong_type(value, hint, label, help) from None
        raise _wrong_type(value, hint, label, help)
    if hint is int and (isinstance(value, bool) or not isinstance(value, int)):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise _wrong_type(value, hint, label, help)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise _wrong_type(value, hint, label, help)
    return value


def _wrong_type(value: Any, hint: Any, label: str, help: str) -> ConfigError:
    wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    hint_text = f" ({help})" if help else ""
    return ConfigError(f"{label} must be of type {wanted}, not {type(value).__name__} {value!r}.{hint_text}")


def _check_range(value: Any, metadata: Mapping[str, Any], label: str) -> None:
    if value is None:
        return
    if isinstance(value, list | dict):
        entries = enumerate(value) if isinstance(value, list) else value.items()
        for place, item in entries:
            _check_range(item, metadata, f"{label}[{place!r}]")
        return
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{label} must be one of {names}, not {value!r}.{suggest(str(value), map(str, choices))}")
    bounds = metadata.get("bounds") or {}
    failed = any(not _BOUNDS[name][0](value, bound) for name, bound in bounds.items())
    if failed:
        allowed = " and ".join(f"{_BOUNDS[name][1]} {bound:g}" for name, bound in bounds.items())
        raise ConfigError(f"{label} must be {allowed}, not {value!r}.")
