"""The search space of a method: what the options of its parts declare, changed as the user says."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hybridopt.core import ConfigError, suggest
from hybridopt.experiment import parts
from hybridopt.tuning.dimensions import Choices, Dimension, declared

BATCH = "task.batch_size"
"""Name of the dimension that every method has that does not want the full batch."""

BESIDE = ("escape", "schedule", "data")
"""Kinds of parts that belong to a method beside its optimizer; all others belong to the problem that it is given."""

_OFF = ("off", "none")


@dataclasses.dataclass(frozen=True)
class Space:
    """Named dimensions; a point of it is a dict of config names and values.

    Attributes:
        dimensions: By the config name of the option, such as ``optimizer.lr``.

    Example:
        >>> space = Space.of("adam").only(["optimizer.lr"])
        >>> print(space)
        optimizer.lr=log:1e-05:0.1
        >>> space.at([0.5])
        {'optimizer.lr': 0.001}
        >>> space.sample(2, sampler="random", seed=1) == space.sample(2, sampler="random", seed=1)
        True
    """

    dimensions: Mapping[str, Dimension]

    @classmethod
    def of(
        cls,
        optimizer: str,
        *,
        batch_size: int | None = None,
        train_size: int | None = None,
        options: Mapping[str, Any] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> Space:
        """Returns the space that an optimizer's options declare (``option(search=...)``), and those of other parts.

        An option with a single value to look at is no dimension. A method that holds others by name (``inner`` with
        ``inner_options``, ``first`` with ``first_options``) is searched over their options too, as
        ``optimizer.inner_options.lr``. The members of an ``escape=chain`` are a list that says all itself.

        Args:
            optimizer: A registered name.
            batch_size: The task's batch size, if it is to be searched too: quarter, half, same, double, four times.
            train_size: Samples to train on; no larger batch is proposed.
            options: Options of the optimizer that are set, which may name other members than the default ones.
            beside: Names of other parts whose options are searched too, by kind: ``{"escape": "perturbation"}``.

        Raises:
            UnknownNameError: If there is no such part.
            ConfigError: If a declaration is wrong.
        """
        config = parts.config_class("optimizer", optimizer)
        found = _declared_by("optimizer", config)
        for section, member in _members(config, options or {}).items():
            for name, one in cls.of(member).dimensions.items():
                found[f"optimizer.{section}.{name.removeprefix('optimizer.')}"] = one
        for kind, name in (beside or {}).items():
            found |= _declared_by(kind, parts.config_class(kind, name))
        if batch_size is not None:
            sizes = [batch_size // 4, batch_size // 2, batch_size, 2 * batch_size, 4 * batch_size]
            kept = [size for size in sizes if 1 <= size <= (train_size or math.inf)]
            found[BATCH] = Choices(tuple(dict.fromkeys(kept)), least=1, most=train_size or math.inf)
        return cls({name: one for name, one in found.items() if not _single(one)})

    def changed(
        self, changes: Sequence[str], optimizer: str | None = None, beside: Mapping[str, str] | None = None
    ) -> Space:
        """Returns the space with some dimensions replaced, added or left out.

        Args:
            changes: Texts such as ``optimizer.lr=log:1e-4:1``, ``optimizer.beta1=uniform:0.8:0.99``,
                ``optimizer.history=5,10,20`` and ``escape.radius=off``.
            optimizer: Name of the optimizer, whose options are then checked; None checks nothing.
            beside: Names of other parts whose options are checked, by kind.

        Raises:
            ConfigError: If a text cannot be read or names an option that is not there.
        """
        found = dict(self.dimensions)
        names = {**(beside or {}), **({} if optimizer is None else {"optimizer": optimizer})}
        for text in changes:
            name, equals, given = text.partition("=")
            if not equals or not given or "." not in name:
                raise ConfigError(
                    f"--space {text!r} cannot be read. Write NAME=log:LOW:HIGH, NAME=uniform:LOW:HIGH, "
                    "NAME=VALUE,VALUE or NAME=off, with a NAME such as optimizer.lr."
                )
            search = _parse(name, given)
            if search is None:
                found.pop(name, None)
            else:
                found[name] = _checked(name, search, names)
        return Space({name: one for name, one in found.items() if not _single(one)})

    def only(self, names: Sequence[str]) -> Space:
        """Returns the space with the named dimensions alone.

        Args:
            names: Config names, all of them in the space.

        Raises:
            ConfigError: If one is not.
        """
        for name in names:
            if name not in self.dimensions:
                known = ", ".join(self.dimensions) or "none"
                raise ConfigError(f"{name!r} is not searched.{suggest(name, self.dimensions)} Searched are: {known}.")
        return Space({name: one for name, one in self.dimensions.items() if name in names})

    def without(self, names: Sequence[str]) -> Space:
        """Returns the space without the named dimensions and those within a named section.

        Args:
            names: Config names such as ``optimizer.lr`` or ``optimizer.inner_options``; those that are not in the
                space make no difference.
        """
        sections = tuple(f"{name}." for name in names)
        kept = {name: one for name, one in self.dimensions.items() if name not in names}
        return Space({name: one for name, one in kept.items() if not name.startswith(sections)})

    def at(self, point: Sequence[float]) -> dict[str, Any]:
        """Returns the values at a point of the unit cube.

        Args:
            point: One number from 0 to 1 a dimension.
        """
        return {name: one.at(u) for (name, one), u in zip(self.dimensions.items(), point, strict=True)}

    def sample(self, count: int, *, sampler: str = "sobol", seed: int = 0) -> list[dict[str, Any]]:
        """Returns points of the space; more of them begin with fewer of them.

        Args:
            count: How many; for ``grid`` at most so many.
            sampler: ``sobol``, ``random`` or ``grid``.
            seed: Of the random numbers; a grid has none.

        Raises:
            ConfigError: If there is no such sampler, or a grid has more points than wanted.
        """
        from hybridopt.tuning.samplers import draw

        return draw(self, count, sampler, seed)

    def __len__(self) -> int:
        return len(self.dimensions)

    def __str__(self) -> str:
        return " ".join(f"{name}={one}" for name, one in self.dimensions.items())


def _members(config: type, options: Mapping[str, Any]) -> dict[str, str]:
    """The sections of a config that hold the options of a member, and the members' names."""
    if options.get("stages"):  # a chain's stages say all themselves
        return {}
    fields = {field.name: field for field in dataclasses.fields(config)}
    found = {}
    for section in fields:
        stem = section.removesuffix("_options")
        if stem == section or stem not in fields:
            continue
        name = options.get(stem, fields[stem].default)
        if isinstance(name, str) and name in parts.registry("optimizer"):
            found[section] = name
    return found


def _declared_by(kind: str, config: type) -> dict[str, Dimension]:
    """The dimensions that the options of a part declare."""
    return {
        f"{kind}.{field.name}": _dimension(config, field, field.metadata["search"], kind)
        for field in dataclasses.fields(config)
        if field.metadata.get("search") is not None
    }


def _dimension(config: type, field: Any, search: Any, kind: str) -> Dimension:
    hint = typing.get_type_hints(config)[field.name]
    kinds = {one for one in (typing.get_args(hint) or (hint,)) if one is not type(None)}
    return declared(
        search,
        integer=kinds == {int},
        bounds=field.metadata.get("bounds") or {},
        options=field.metadata.get("choices"),
        label=f"{kind}.{field.name}",
    )


def _checked(name: str, search: Any, names: Mapping[str, str]) -> Dimension:
    """The dimension of a text, within the limits of the option where that is one of a part whose name is known."""
    section, _, option = name.partition(".")
    if name == BATCH:
        return declared(search, integer=True, bounds={"ge": 1}, options=None, label=name)
    part = names.get(section)
    if part is not None and part != parts.EXTERNAL:
        config = parts.config_class(section, part)
        fields = {field.name: field for field in dataclasses.fields(config)}
        stem, dot, _ = option.partition(".")
        if stem not in fields:
            known = ", ".join(fields) or "none"
            raise ConfigError(
                f"{section}={part} has no option {stem!r}.{suggest(stem, fields)} Its options are: {known}."
            )
        if dot:  # of a member, which checks it when a trial is built
            return declared(search, integer=False, bounds={}, options=None, label=name)
        return _dimension(config, fields[option], search, section)
    return declared(search, integer=False, bounds={}, options=None, label=name)


def _parse(name: str, text: str) -> Any:
    """Returns a text as `option` takes a search space, None for none."""
    if text.lower() in _OFF:
        return None
    kind, *ends = text.split(":")
    if not ends:
        return [_scalar(one) for one in text.split(",")]
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        low = high = math.nan
    if kind not in ("log", "uniform") or math.isnan(low) or math.isnan(high):
        raise ConfigError(
            f"The search space {text!r} of {name} cannot be read. Write log:LOW:HIGH, uniform:LOW:HIGH, VALUE,VALUE or "
            "off."
        )
    return kind, low, high


def _scalar(text: str) -> Any:
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        value = yaml.safe_load(text)
        return text if isinstance(value, list | dict) else value


def _single(dimension: Dimension) -> bool:
    return isinstance(dimension, Choices) and len(dimension.values) < 2
