"""Named parts: built in, registered by the user, or offered by an installed package."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from hybridopt.core.errors import ConfigError, UnknownNameError, suggest

PartT = TypeVar("PartT")


class Registry:
    """A table from names to classes, which imports a class only when it is asked for.

    Args:
        kind: What the names stand for ("optimizer", "task", ...), for messages.
        builtins: Name to ``"package.module:Class"``.
        entry_points: Entry-point group in which installed packages offer more, e.g. ``hybridopt.optimizers``.

    Example:
        >>> registry = Registry("counter", {"ordered": "collections:OrderedDict"})
        >>> registry.get("ordered").__name__
        'OrderedDict'
        >>> registry.get("orderd")
        Traceback (most recent call last):
        ...
        hybridopt.core.errors.UnknownNameError: There is no counter 'orderd'. Did you mean 'ordered'? Known: ordered.
    """

    def __init__(self, kind: str, builtins: Mapping[str, str], entry_points: str | None = None) -> None:
        self.kind = kind
        self._builtins = dict(builtins)
        self._registered: dict[str, Any] = {}
        self._group = entry_points

    def register(self, name: str) -> Callable[[type[PartT]], type[PartT]]:
        """Returns a class decorator that adds the class under `name`.

        Registering the same class again (a module that is imported twice) replaces it; the name of a built-in is
        refused.

        Args:
            name: Name for Python, YAML and the command line.

        Raises:
            ConfigError: If the name is taken by a built-in or by another class.
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"register needs the name of the {self.kind} as text: @register('my_{self.kind}').")

        def add(cls: type[PartT]) -> type[PartT]:
            if name in self._builtins:
                raise ConfigError(f"The {self.kind} name {name!r} is built in; register yours under another.")
            known = self._registered.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ConfigError(f"The {self.kind} name {name!r} is taken by {known.__qualname__} already.")
            self._registered[name] = cls
            return cls

        return add

    def get(self, name: str) -> Any:
        """Returns the class of that name, importing it if needed.

        Args:
            name: A name out of `names`.

        Raises:
            UnknownNameError: If there is none; the message proposes the nearest and lists all.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._builtins:
            module, _, attribute = self._builtins[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        offered = self._offered()
        if name in offered:
            return offered[name].load()
        names = self.names()
        known = ", ".join(names)
        raise UnknownNameError(f"There is no {self.kind} {name!r}.{suggest(name, names)} Known: {known}.")

    def names(self) -> list[str]:
        """Returns all names: built-ins in their order, then the others sorted."""
        others = sorted((set(self._registered) | set(self._offered())) - set(self._builtins))
        return [*self._builtins, *others]

    def __contains__(self, name: object) -> bool:
        return name in self._builtins or name in self._registered or name in self._offered()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _offered(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._group is None:
            return {}
        return {entry.name: entry for entry in importlib.metadata.entry_points(group=self._group)}
