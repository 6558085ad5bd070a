"""Gradient descent, momentum and the adaptive methods: torch's own classes behind `step(objective)`."""

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

_HOST_ONLY = ("clip_norm", "clip_value")


@dataclass
class FirstOrderConfig:
    """Options that all first-order methods share.

    Attributes:
        lr: Learning rate.
        weight_decay: Strength of the weight decay: L2 (added to the gradient), except where the method says that
            it is decoupled.
        clip_norm: Largest Euclidean norm of the whole gradient, or None.
        clip_value: Largest absolute value of a gradient entry, or None.
        foreach: Torch's implementation over lists of tensors; None leaves the choice to torch.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="weight decay")
    clip_norm: float | None = option(None, gt=0, help="largest norm of the gradient")
    clip_value: float | None = option(None, gt=0, help="largest absolute gradient entry")
    foreach: bool | None = option(None, help="torch's multi-tensor implementation; null: torch chooses")


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
    constant: ClassVar[dict[str, Any]] = {}
    """Arguments of the torch class that this method fixes."""

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        # Before torch's init: `add_param_group` runs inside it and asks for the config.
        self.config = config
        arguments = {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name not in _HOST_ONLY
        }
        arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        try:
            self.torch_class.__init__(self, params, **arguments, **self.constant)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"{type(self).__name__}: {error}") from error
        self._start(config, escape)

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
            check(dataclasses.replace(self.config, **own), owner=type(self).__name__)
        super().add_param_group(param_group)  # type: ignore[misc]

    def _clip(self, parameters: list[Tensor]) -> None:
        if self.config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.config.clip_value)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)


@dataclass
class SGDConfig(FusedConfig):
    """Options of `SGD`."""

    lr: float = option(0.1, ge=0, search=("log", 1e-3, 10.0), help="learning rate")


class SGD(FirstOrder, torch.optim.SGD):
    """Stochastic gradient descent (Robbins and Monro 1951), by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = SGDConfig
    summary = "stochastic gradient descent"


@dataclass
class MomentumConfig(SGDConfig):
    """Options of `Momentum`.

    Attributes:
        momentum: Share of the last step that is kept.
        dampening: Share of the gradient that is left out.
    """

    lr: float = option(0.05, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    momentum: float = option(0.9, gt=0, lt=1, search=[0.5, 0.9, 0.95, 0.99], help="share of the last step kept")
    dampening: float = option(0.0, ge=0, lt=1, help="share of the gradient left out")


class Momentum(FirstOrder, torch.optim.SGD):
    """Gradient descent with heavy-ball momentum (Polyak 1964), by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = MomentumConfig
    summary = "SGD with heavy-ball momentum"


@dataclass
class NesterovConfig(SGDConfig):
    """Options of `Nesterov`.

    Attributes:
        momentum: Share of the last step that is kept.
    """

    lr: float = option(0.05, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    momentum: float = option(0.9, gt=0, lt=1, search=[0.5, 0.9, 0.95, 0.99], help="share of the last step kept")


class Nesterov(FirstOrder, torch.optim.SGD):
    """Gradient descent with Nesterov's momentum in the form of Sutskever et al. 2013, by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = NesterovConfig
    constant: ClassVar[dict[str, Any]] = {"nesterov": True}
    summary = "SGD with Nesterov momentum"


@dataclass
class AdagradConfig(FusedConfig):
    """Options of `Adagrad`.

    Attributes:
        lr_decay: Decay of the learning rate with the step.
        initial_accumulator_value: Start of the sum of squares.
        eps: Added to the denominator.
    """

    lr: float = option(1e-2, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    lr_decay: float = option(0.0, ge=0, help="decay of the learning rate with the step")
    initial_accumulator_value: float = option(0.0, ge=0, help="start of the sum of squares")
    eps: float = option(1e-10, ge=0, help="added to the denominator")


class Adagrad(FirstOrder, torch.optim.Adagrad):
    """Adagrad (Duchi, Hazan and Singer 2011), by `torch.optim.Adagrad`."""

    torch_class = torch.optim.Adagrad
    Config = AdagradConfig
    summary = "rates from the sum of squared gradients"


@dataclass
class RMSpropConfig(FirstOrderConfig):
    """Options of `RMSprop`.

    Attributes:
        alpha: Decay of the mean square.
        eps: Added to the denominator.
        momentum: Share of the last step that is kept.
        centered: Whether to subtract the squared mean gradient.
    """

    alpha: float = option(0.99, ge=0, lt=1, help="decay of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")
    momentum: float = option(0.0, ge=0, lt=1, help="share of the last step kept")
    centered: bool = option(False, help="subtract the squared mean gradient")


class RMSprop(FirstOrder, torch.optim.RMSprop):
    """RMSprop (Tieleman and Hinton 2012), by `torch.optim.RMSprop`."""

    torch_class = torch.optim.RMSprop
    Config = RMSpropConfig
    summary = "rates from the mean squared gradient"


@dataclass
class AdamConfig(FusedConfig):
    """Options of the Adam family.

    Attributes:
        betas: Decay of the mean gradient and of the mean square.
        eps: Added to the denominator.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")


class Adam(FirstOrder, torch.optim.Adam):
    """Adam (Kingma and Ba 2015), by `torch.optim.Adam`."""

    torch_class = torch.optim.Adam
    Config = AdamConfig
    summary = "adaptive moments"


class AMSGrad(FirstOrder, torch.optim.Adam):
    """Adam with the largest mean square so far in the denominator (Reddi, Kale and Kumar 2018)."""

    torch_class = torch.optim.Adam
    Config = AdamConfig
    constant: ClassVar[dict[str, Any]] = {"amsgrad": True}
    summary = "Adam with non-increasing rates"


@dataclass
class AdamWConfig(AdamConfig):
    """Options of `AdamW`.

    Attributes:
        weight_decay: Decoupled: each step also shrinks the parameters by lr * weight_decay.
    """

    weight_decay: float = option(1e-2, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")


class AdamW(FirstOrder, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), by `torch.optim.AdamW`."""

    torch_class = torch.optim.AdamW
    Config = AdamWConfig
    coupled_decay = False
    summary = "Adam with decoupled weight decay"
