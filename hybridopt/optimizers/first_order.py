"""Gradient descent, momentum and the Adam family: torch's own classes behind `step(objective)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hybridopt.core import option
from hybridopt.optimizers.first_order_base import FirstOrder, FusedConfig
from hybridopt.optimizers.first_order_rules import Descent, HeavyBall, Moments
from hybridopt.optimizers.hypergradient import Hypergradient

__all__ = [
    "SGD",
    "AMSGrad",
    "Adam",
    "AdamConfig",
    "AdamFamilyConfig",
    "AdamW",
    "AdamWConfig",
    "FirstOrder",
    "FusedConfig",
    "Momentum",
    "MomentumConfig",
    "Nesterov",
    "NesterovConfig",
    "SGDConfig",
]


@dataclass
class SGDConfig(FusedConfig):
    """Options of `SGD`.

    Attributes:
        hypergradient: Rate at which the learning rate is learned, see `Hypergradient`; 0 leaves it as it is.
    """

    lr: float = option(0.1, ge=0, search=("log", 1e-3, 10.0), help="learning rate")
    hypergradient: float = option(0.0, ge=0, help="rate at which the learning rate is learned; 0: it is not")


class SGD(Hypergradient, torch.optim.SGD):
    """Stochastic gradient descent (Robbins and Monro 1951), by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = SGDConfig
    summary = "stochastic gradient descent"
    rule = Descent()


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


class Momentum(Hypergradient, torch.optim.SGD):
    """Gradient descent with heavy-ball momentum (Polyak 1964), by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = MomentumConfig
    summary = "SGD with heavy-ball momentum"
    rule = HeavyBall()


@dataclass
class NesterovConfig(SGDConfig):
    """Options of `Nesterov`.

    Attributes:
        momentum: Share of the last step that is kept.
    """

    lr: float = option(0.05, ge=0, search=("log", 1e-4, 1.0), help="learning rate")
    momentum: float = option(0.9, gt=0, lt=1, search=[0.5, 0.9, 0.95, 0.99], help="share of the last step kept")


class Nesterov(Hypergradient, torch.optim.SGD):
    """Gradient descent with Nesterov's momentum in the form of Sutskever et al. 2013, by `torch.optim.SGD`."""

    torch_class = torch.optim.SGD
    Config = NesterovConfig
    constant: ClassVar[dict[str, Any]] = {"nesterov": True}
    summary = "SGD with Nesterov momentum"
    rule = HeavyBall(nesterov=True)


@dataclass
class AdamFamilyConfig(FusedConfig):
    """Options of the Adam family.

    Attributes:
        betas: Decay of the mean gradient and of the mean square.
        eps: Added to the denominator.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")


@dataclass
class AdamConfig(AdamFamilyConfig):
    """Options of `Adam`.

    Attributes:
        hypergradient: Rate at which the learning rate is learned, see `Hypergradient`; 0 leaves it as it is.
    """

    hypergradient: float = option(0.0, ge=0, help="rate at which the learning rate is learned; 0: it is not")


class Adam(Hypergradient, torch.optim.Adam):
    """Adam (Kingma and Ba 2015), by `torch.optim.Adam`."""

    torch_class = torch.optim.Adam
    Config = AdamConfig
    summary = "adaptive moments"
    rule = Moments()


class AMSGrad(FirstOrder, torch.optim.Adam):
    """Adam with the largest mean square so far in the denominator (Reddi, Kale and Kumar 2018)."""

    torch_class = torch.optim.Adam
    Config = AdamFamilyConfig
    constant: ClassVar[dict[str, Any]] = {"amsgrad": True}
    summary = "Adam with non-increasing rates"
    rule = Moments(largest=True)


@dataclass
class AdamWConfig(AdamFamilyConfig):
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
    rule = Moments(decoupling=True)
