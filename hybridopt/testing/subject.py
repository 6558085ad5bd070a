"""The optimizer that is checked, however it was named."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from hybridopt.core import ConfigError
from hybridopt.factory import create
from hybridopt.optimizers import registry
from hybridopt.optimizers.base import Stepping
from hybridopt.testing.problems import training
from hybridopt.testing.settings import SETTINGS


class Subject:
    """An optimizer under test.

    Args:
        method: A registered name, ``torch:AdamW``, ``package.module:Class``, ``scipy:L-BFGS-B``,
            ``path/file.py:Class``, or a class.
        options: Its options in all checks; None for those of `SETTINGS`, or the defaults.

    Raises:
        ConfigError: If it is neither a name nor an optimizer's class.
        UnknownNameError: If there is no such optimizer.
    """

    def __init__(self, method: str | type, options: Mapping[str, Any] | None = None) -> None:
        if isinstance(method, type):
            if not issubclass(method, Stepping):
                raise ConfigError(
                    f"{method.__name__} is no optimizer of this library: it must subclass hybridopt.Optimizer. A torch "
                    "class is checked by its path, 'package.module:Class'."
                )
            self.cls: type[Stepping] | None = method
            self.name = next((name for name in registry._builtins if _is(name, method)), method.__name__)
        elif isinstance(method, str):
            self.name, self.cls = method, _find(method)
        else:
            raise ConfigError(f"A check needs the name or the class of an optimizer, not a {type(method).__name__}.")
        if self.cls is not None and not dataclasses.is_dataclass(getattr(self.cls, "Config", None)):
            raise ConfigError(
                f"{self.name} needs a dataclass named Config inside it that declares its options, as in "
                "`@dataclass class Config: lr: float = hybridopt.option(0.1, ge=0)`."
            )
        self.options: dict[str, Any] = dict(SETTINGS.get(self.name, {}) if options is None else options)

    def create(self, params: Any, escape: Any = None, **more: Any) -> Any:
        """Makes the optimizer.

        Args:
            params: Parameters or param groups.
            escape: What to do at a saddle.
            **more: Options beside those of the subject, or instead of them.
        """
        options = {**self.options, **more}
        if self.cls is not None:
            return self.cls(params, escape=escape, **options)  # type: ignore[call-arg]
        return create(self.name, params, escape=escape, **options)

    @property
    def own(self) -> bool:
        """Whether it is a class with a `Config` of its own, and not an adapter."""
        return self.cls is not None

    @property
    def family(self) -> str:
        """The family that its class declares; empty for adapters."""
        return self.cls.family if self.cls is not None else ""

    @property
    def globalized(self) -> bool:
        """Whether it is a quasi-Newton or Newton method for large batches, which never lets the function rise."""
        cls = self.cls
        return cls is not None and cls.family in ("quasi-newton", "newton") and cls.batch != "mini"

    @property
    def has_groups(self) -> bool:
        """Whether it takes several param groups."""
        return self.name != "torch:LBFGS"

    @property
    def has_rate(self) -> bool:
        """Whether its groups have a learning rate."""
        return "lr" in self._probe.param_groups[0]

    @property
    def has_decay(self) -> bool:
        """Whether its groups have a weight decay."""
        return "weight_decay" in self._probe.param_groups[0]

    @property
    def guarded(self) -> bool:
        """Whether it reports ``accepted``, and so promises to refuse steps from or to values that are not finite."""
        return "accepted" in self._probe.report

    @property
    def fields(self) -> dict[str, dataclasses.Field[Any]]:
        """The options that its `Config` declares; empty for adapters."""
        if self.cls is None:
            return {}
        return {field.name: field for field in dataclasses.fields(self.cls.Config)}

    @cached_property
    def _probe(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            problem = training()
            optimizer = self.create(problem.model.parameters())
            optimizer.step(problem.objective)
        return optimizer

    def __str__(self) -> str:
        return self.name


def _is(name: str, cls: type) -> bool:
    return registry._builtins[name].endswith(f":{cls.__name__}") and registry.get(name) is cls


def _find(name: str) -> type[Stepping] | None:
    """Returns the class of this library that a name means, or None for an adapter; checks that it exists."""
    from hybridopt.optimizers.adapters import External, adapt

    path, _, attribute = name.rpartition(":")
    if path.endswith(".py") or os.sep in path:
        from hybridopt.core.plugins import load_plugin

        file = load_plugin(path)
        module = next(m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == file)
        cls = getattr(module, attribute, None)
        if not isinstance(cls, type) or not issubclass(cls, Stepping):
            known = [n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, Stepping)]
            known = [n for n in known if vars(module)[n].__module__ == module.__name__]
            if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer):
                raise ConfigError(
                    f"{attribute} is a torch optimizer: it is checked by the name of its module, as "
                    f"'{os.path.basename(path).removesuffix('.py')}:{attribute}', not by a file."
                )
            raise ConfigError(
                f"{path} has no optimizer {attribute!r}, a subclass of hybridopt.Optimizer; it has "
                f"{', '.join(known) or 'none'}."
            )
        return cls
    if name.startswith("scipy:"):
        create(name, [torch.nn.Parameter(torch.ones(1))])
        return None
    if not path and name.endswith(".py"):
        raise ConfigError(f"Say which class of {name} is meant, after a colon: {name}:MyMethod.")
    if not path and "." in name:
        module, _, attribute = name.rpartition(".")
        raise ConfigError(f"A class is named after a colon: {module}:{attribute}.")
    if not path:
        return registry.get(name)
    if os.getcwd() not in sys.path:  # a console script does not look there, `python -m` does
        sys.path.append(os.getcwd())
    cls = adapt(name)
    return None if issubclass(cls, External) else cls
