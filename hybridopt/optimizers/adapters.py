"""Optimizers of torch and of other packages, by the name of their class."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, UnknownNameError, option, suggest
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Stepping
from hybridopt.optimizers.torch_step import TorchStep


@dataclass
class ExternalConfig:
    """Options of an optimizer from outside.

    Attributes:
        cls: ``torch:AdamW`` for `torch.optim.AdamW`, or ``package.module:Class``.
        options: Arguments of its constructor.
    """

    cls: str = option("", help="torch:AdamW, or package.module:Class")
    options: dict[str, Any] = option({}, help="arguments of its constructor")


class External(TorchStep):
    """Mixin around any class that follows torch's optimizer protocol.

    Its step is called with a closure, so methods that evaluate more than once (`torch.optim.LBFGS`) work too and
    pay for every evaluation.
    """

    Config = ExternalConfig
    coupled_decay = False
    takes_sparse = True  # torch.optim.SparseAdam takes no others
    state_of_its_own = False  # torch.optim.LBFGS keeps that of all parameters under the first
    summary = "a class of torch.optim or another package, by name"

    def _descend(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        first: list[Tensor] = []
        gradients: list[Tensor | None] = []

        def closure() -> Tensor:
            loss = self._differentiate(objective, parameters)
            if not first:
                gradients.extend(parameter.grad for parameter in parameters)
            first.append(loss)
            return loss

        self._torch_step(closure)
        if not first:
            raise ConfigError(
                f"{self.torch_class.__name__}.step did not call its closure, so it cannot be used through "
                "step(objective): it does not follow torch's protocol."
            )
        if len(first) > 1:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        return first[0]

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context for evaluation; calls the optimizer's own ``eval()`` and ``train()`` where it has them."""
        if not (callable(getattr(self, "eval", None)) and callable(getattr(self, "train", None))):
            yield
            return
        self.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.train()  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        # Attributes of the adapted class too, which torch leaves out. Not what torch or its schedulers put there.
        own = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_optimizer_") and name not in ("report", "step")
        }
        return own | super().__getstate__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so it is pickled by the name it was made from.
        return _remake, (self.config.cls,), self.__getstate__()


def find_class(path: str) -> type:
    """Returns the class that a path names.

    Args:
        path: ``torch:AdamW`` or ``package.module:Class``.

    Raises:
        UnknownNameError: If the module or the class does not exist, or is no optimizer.
    """
    module_name, _, class_name = path.partition(":")
    module_name = "torch.optim" if module_name == "torch" else module_name
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownNameError(
            f"The optimizer {path!r} needs the module {module_name!r}, which cannot be imported ({error}). Install "
            "it, or correct the name before the colon."
        ) from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not issubclass(cls, torch.optim.Optimizer):
        names = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and not name.startswith("_")
        ]
        raise UnknownNameError(
            f"{module_name} has no optimizer {class_name!r}.{suggest(class_name, names)} It has: "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    return cls


def adapt(path: str) -> type[Stepping]:
    """Returns a class that steps on an objective, made from the one that a path names.

    Args:
        path: ``torch:AdamW`` or ``package.module:Class``. A class of this library is returned as it is.

    Raises:
        UnknownNameError: If there is no such optimizer.
    """
    cls = find_class(path)
    if issubclass(cls, Stepping):
        return cls
    return type(cls.__name__, (External, cls), {"torch_class": cls, "__doc__": cls.__doc__, "_path": path})


def external(path: str, params: Iterable[Any], *, escape: Any = None, **options: Any) -> Stepping:
    """Makes an optimizer from outside.

    Args:
        path: ``torch:AdamW`` or ``package.module:Class``.
        params: Parameters or param groups.
        escape: As for `Optimizer`.
        **options: Arguments of its constructor.

    Raises:
        UnknownNameError: If there is no such optimizer.
        ConfigError: If it has no such argument, or rejects a value.
    """
    cls = adapt(path)
    if not issubclass(cls, External):
        return cls(params, escape=escape, **options)
    signature = inspect.signature(cls.torch_class.__init__).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values()):
        known = [name for name in signature if name not in ("self", "params")]
        for name in options:
            if name not in known:
                raise ConfigError(
                    f"{path} has no option {name!r}.{suggest(name, known)} Its options are: {', '.join(known)}."
                )
    try:
        optimizer = cls.__new__(cls)
        cls.torch_class.__init__(optimizer, params, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not accept these arguments: {error}") from error
    optimizer._start(ExternalConfig(path, options), escape)
    return optimizer


def _remake(path: str) -> Stepping:
    cls = adapt(path)
    return cls.__new__(cls)
