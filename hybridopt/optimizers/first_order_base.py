"""What the first-order methods share: options, clipping, and torch's own classes behind `step(objective)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.core import ConfigError, check, option, suggest
from hybridopt.optimizers.base import _GROUP_KEYS, resolve_config
from hybridopt.optimizers.torch_step import TorchStep


@dataclass
class RateConfig:
    """Options that all first-order methods share.

    Attributes:
        lr: Learning rate.
        weight_decay: Strength of the weight decay: L2 (added to the gradient), except where the method says that
            it is decoupled.
        clip_norm: Largest Euclidean norm of the whole gradient, or None.
        clip_value: Largest absolute value of a gradient entry, or None.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="weight decay")
    clip_norm: float | None = option(None, gt=0, help="largest norm of the gradient")
    clip_value: float | None = option(None, gt=0, help="largest absolute gradient entry")


@dataclass
class FirstOrderConfig(RateConfig):
    """Options of the methods that are torch's own classes.

    Attributes:
        foreach: Torch's implementation over lists of tensors; None leaves the choice to torch.
    """

    foreach: bool | None = option(None, help="torch's multi-tensor implementation; null: torch chooses")

    def validate(self, owner: str) -> None:
        """Refuses betas that are not two numbers, which torch would meet in its first step only.

        Args:
            owner: Whose options, for the message.
        """
        if hasattr(self, "betas"):
            check_betas(self.betas, owner)


@dataclass
class FusedConfig(FirstOrderConfig):
    """Options of those methods that torch has fused kernels for.

    Attributes:
        fused: Torch's fused kernels; None leaves the choice to torch.
    """

    fused: bool | None = option(None, help="torch's fused kernels; null: torch chooses")


class FirstOrder(TorchStep):
    """Base of the first-order methods: a config that is translated into a torch constructor's arguments.

    Args:
        params: Parameters, named parameters or param groups. A group may set any of torch's options.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle: a name, a mapping with ``name`` and options, an `Escape`, or None.
        **options: Fields of `Config`; unknown ones are errors.

    Raises:
        ConfigError: If an option is unknown, has a wrong type or is out of range.
    """

    Config = FirstOrderConfig
    state_elementwise = True
    constant: ClassVar[dict[str, Any]] = {}
    """Arguments of the torch class that this method fixes."""
    own_options: ClassVar[tuple[str, ...]] = ("clip_norm", "clip_value")
    """Fields of the config that are not for the constructor, and the same for all groups."""

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        # Before torch's init: `add_param_group` runs inside it and asks for the config.
        self.config = config
        try:
            self._construct(params, self._arguments())
        except (ValueError, RuntimeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{type(self).__name__}: {error}") from error
        self._start(config, escape)

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments: the fields of the config, lists as tuples as torch wants them."""
        names = [field.name for field in dataclasses.fields(self.config) if field.name not in self.own_options]
        return _for_torch(self.config, names)

    def _construct(self, params: Iterable[Any], arguments: dict[str, Any]) -> None:
        self.torch_class.__init__(self, params, **arguments, **self.constant)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, possibly with options of its own.

        Args:
            param_group: ``params`` and any of the torch class's options.

        Raises:
            ConfigError: If the torch class has no such option, or a value is out of range.
        """
        if isinstance(param_group, dict):
            for name in param_group:
                if name not in self.defaults and name not in _GROUP_KEYS:
                    raise ConfigError(
                        f"{type(self).__name__} has no option {name!r} for a param group."
                        f"{suggest(name, self.defaults)} Its options: {', '.join(self.defaults)}."
                    )
            own = {name: value for name, value in param_group.items() if hasattr(self.config, name)}
            checked = check(dataclasses.replace(self.config, **own), owner=type(self).__name__)
            # NumPy's numbers as Python's, or the state could not be loaded with weights_only.
            param_group.update(_for_torch(checked, own))
        super().add_param_group(param_group)  # type: ignore[misc]

    def _clip(self, parameters: list[Tensor]) -> None:
        if self.config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)


def _for_torch(config: Any, names: Iterable[str]) -> dict[str, Any]:
    """Values of a config, lists as tuples."""
    values = {name: getattr(config, name) for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_betas(betas: list[float], owner: str) -> None:
    """Refuses anything but two numbers in [0, 1).

    Args:
        betas: The option's value.
        owner: Whose option, for the message.

    Raises:
        ConfigError: If it is something else.
    """
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ConfigError(f"{owner}.betas must be two numbers >= 0 and < 1, not {list(betas)}.")
