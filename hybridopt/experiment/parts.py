"""The named parts that an experiment is put together from: which registry serves which config group."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from hybridopt.core import ConfigError, HybridoptError, Registry, make_config, to_dict

_REGISTRIES = {
    "task": "hybridopt.tasks",
    "optimizer": "hybridopt.optimizers",
    "escape": "hybridopt.escape",
    "schedule": "hybridopt.experiment.schedules",
    "data": "hybridopt.data",
    "initialization": "hybridopt.experiment.initialization",
    "augmentation": "hybridopt.experiment.augmentation",
    "precision": "hybridopt.experiment.precision",
    "stopping": "hybridopt.experiment.stopping",
    "tracker": "hybridopt.experiment.trackers",
}
"""The module of each kind's registry."""

KINDS = tuple(_REGISTRIES)
"""Config groups whose options come from a registry."""

UNSEEN = ("tracker",)
"""Those of `KINDS` that change no number of a run; all others are part of its identity."""

EXTERNAL = "external"
"""The optimizer name under which any importable class runs: ``optimizer=external optimizer.cls=torch:AdamW``."""


@dataclasses.dataclass
class NoOptions:
    """The config of a part that has no options."""


def registry(kind: str) -> Registry:
    """Returns the registry behind a config group.

    Args:
        kind: One of `KINDS`.

    Raises:
        ConfigError: If it is none of them.
    """
    if kind not in _REGISTRIES:
        raise ConfigError(f"There is no kind of part {kind!r}. Known: {', '.join(KINDS)}.")
    found: Registry = importlib.import_module(_REGISTRIES[kind]).registry
    return found


def names(kind: str) -> list[str]:
    """Returns the names that a config group takes.

    Args:
        kind: One of `KINDS`.
    """
    known = registry(kind).names()
    if kind == "escape" and "none" not in known:
        return ["none", *known]
    if kind == "optimizer" and EXTERNAL not in known:
        return [*known, EXTERNAL]
    return known


def config_class(kind: str, name: str) -> type:
    """Returns the dataclass of the options of a part.

    Args:
        kind: One of `KINDS`.
        name: One of `names(kind)`.

    Raises:
        UnknownNameError: If there is no such part.
        ConfigError: If its module cannot be imported.
    """
    known = registry(kind)
    if name not in known and name == EXTERNAL:
        from hybridopt.optimizers.adapters import ExternalConfig

        return ExternalConfig
    if name not in known and (kind, name) == ("escape", "none"):
        return NoOptions
    return getattr(part_class(kind, name), "Config", NoOptions)


def part_class(kind: str, name: str) -> Any:
    """Returns the class of a part.

    Args:
        kind: One of `KINDS`.
        name: A name in its registry.

    Raises:
        UnknownNameError: If there is no such part.
        ConfigError: If its module cannot be imported.
        HybridoptError: What the module itself complains about.
    """
    try:
        return registry(kind).get(name)
    except HybridoptError:
        raise
    except Exception as error:  # somebody else's module: whatever it raises, the others stay usable
        raise ConfigError(
            f"The {kind} {name!r} cannot be imported: {type(error).__name__}: {error}. Repair or uninstall the "
            "package that offers it."
        ) from error


def check_part(kind: str, value: Any, *, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the checked options of a part with its name, every option spelt out.

    Args:
        kind: One of `KINDS`.
        value: The part's name, or a mapping with ``name`` and options.
        skip: Options that are passed on unchecked.

    Raises:
        ConfigError: If the name, an option, a type or a range is wrong.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(
            f"The config of the {kind} needs a name: write {kind}=NAME or a mapping with the key 'name', not "
            f"{value!r}. Known: {', '.join(names(kind))}."
        )
    name = value["name"]
    cls = config_class(kind, name)
    options = {key: item for key, item in value.items() if key != "name" and key not in skip}
    try:
        checked = make_config(cls, options, owner=kind)
    except ConfigError as error:
        raise type(error)(f"{kind}={name}: {error}") from error
    kept = {key: value[key] for key in skip if key in value}
    return {"name": name, **to_dict(checked), **kept}
