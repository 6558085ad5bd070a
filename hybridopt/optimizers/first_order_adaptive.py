"""Methods that adapt a rate to each parameter: torch's own classes behind `step(objective)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hybridopt.core import option
from hybridopt.optimizers.first_order_base import FirstOrder, FirstOrderConfig, FusedConfig
from hybridopt.optimizers.first_order_rules import (
    LargestMoment,
    NesterovMoments,
    RectifiedMoments,
    RootMeanSquare,
    SquaredSteps,
    SumOfSquares,
)


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
    rule = SumOfSquares()


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
    rule = RootMeanSquare()


@dataclass
class AdadeltaConfig(FirstOrderConfig):
    """Options of `Adadelta`.

    Attributes:
        lr: Factor on the step that the method finds.
        rho: Decay of the mean squares.
        eps: Added to both mean squares.
    """

    lr: float = option(1.0, ge=0, search=("log", 1e-2, 10.0), help="factor on the step")
    rho: float = option(0.9, ge=0, le=1, search=[0.9, 0.95, 0.99], help="decay of the mean squares")
    eps: float = option(1e-6, ge=0, search=("log", 1e-8, 1e-3), help="added to both mean squares")


class Adadelta(FirstOrder, torch.optim.Adadelta):
    """Adadelta (Zeiler 2012), by `torch.optim.Adadelta`."""

    torch_class = torch.optim.Adadelta
    Config = AdadeltaConfig
    summary = "rates from mean squared gradients and steps"
    rule = SquaredSteps()


@dataclass
class AdamaxConfig(FirstOrderConfig):
    """Options of `Adamax`.

    Attributes:
        betas: Decay of the mean gradient and of the largest gradient.
        eps: Added to the denominator.
    """

    lr: float = option(2e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the largest gradient")
    eps: float = option(1e-8, ge=0, help="added to the denominator")


class Adamax(FirstOrder, torch.optim.Adamax):
    """Adam with the max-norm (Kingma and Ba 2015, section 7.1), by `torch.optim.Adamax`."""

    torch_class = torch.optim.Adamax
    Config = AdamaxConfig
    summary = "Adam with the largest instead of the mean squared gradient"
    rule = LargestMoment()


class _Decoupling(FirstOrder):
    """Mixin of classes with torch's option ``decoupled_weight_decay``."""

    @property
    def coupled_decay(self) -> bool:  # type: ignore[override]
        """Whether the decay is L2, a part of the function."""
        return not self.config.decoupled_weight_decay


@dataclass
class NAdamConfig(FirstOrderConfig):
    """Options of `NAdam`.

    Attributes:
        betas: Decay of the mean gradient and of the mean square.
        eps: Added to the denominator.
        momentum_decay: How fast the momentum's schedule rises.
        decoupled_weight_decay: Whether the decay is decoupled, as in AdamW, and not L2.
    """

    lr: float = option(2e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")
    momentum_decay: float = option(4e-3, ge=0, help="how fast the momentum's schedule rises")
    decoupled_weight_decay: bool = option(False, help="decoupled decay, as in AdamW")


class NAdam(_Decoupling, torch.optim.NAdam):
    """Adam with Nesterov momentum (Dozat 2016), by `torch.optim.NAdam`."""

    torch_class = torch.optim.NAdam
    Config = NAdamConfig
    summary = "Adam with Nesterov momentum"
    rule = NesterovMoments()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved state; the product of the momenta keeps its dtype, which torch would cast.

        Args:
            state_dict: What `state_dict` returned.
        """
        super().load_state_dict(state_dict)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for place, saved in state_dict["state"].items():
            if not isinstance(place, str) and "mu_product" in saved:
                state = self.state[parameters[place]]
                state["mu_product"] = saved["mu_product"].to(state["mu_product"].device, copy=True)


@dataclass
class RAdamConfig(FirstOrderConfig):
    """Options of `RAdam`.

    Attributes:
        betas: Decay of the mean gradient and of the mean square.
        eps: Added to the denominator.
        decoupled_weight_decay: Whether the decay is decoupled, as in AdamW, and not L2.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    betas: list[float] = option([0.9, 0.999], help="decay of the mean gradient and of the mean square")
    eps: float = option(1e-8, ge=0, help="added to the denominator")
    decoupled_weight_decay: bool = option(False, help="decoupled decay, as in AdamW")


class RAdam(_Decoupling, torch.optim.RAdam):
    """Rectified Adam (Liu et al. 2020), by `torch.optim.RAdam`."""

    torch_class = torch.optim.RAdam
    Config = RAdamConfig
    summary = "Adam whose first steps wait for the variance"
    rule = RectifiedMoments()


@dataclass
class AdafactorConfig(FirstOrderConfig):
    """Options of `Adafactor`.

    Attributes:
        lr: Largest rate relative to the root mean square of a parameter.
        beta2_decay: Exponent of the decay of the mean square, 1 - t^beta2_decay.
        eps1: Added to the squared gradient; None for the square of the dtype's rounding unit.
        eps2: Least root mean square that a parameter counts for.
        d: Clipping threshold of the update's root mean square.
        weight_decay: Decoupled: each step also shrinks the parameters by lr * weight_decay.
    """

    lr: float = option(1e-2, ge=0, search=("log", 1e-4, 1.0), help="largest rate relative to a parameter's size")
    beta2_decay: float = option(-0.8, le=0, help="exponent of the decay of the mean square")
    eps1: float | None = option(None, ge=0, help="added to the squared gradient; null: eps of the dtype, squared")
    eps2: float = option(1e-3, ge=0, help="least size that a parameter counts for")
    d: float = option(1.0, ge=1, help="clipping threshold of the update")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")


class Adafactor(FirstOrder, torch.optim.Adafactor):
    """Adafactor (Shazeer and Stern 2018): factored mean squares, memory below linear, by `torch.optim.Adafactor`.

    Torch's version has no first moment and a rate of ``min(lr, 1/sqrt(t)) * max(eps2, rms(p))``.
    """

    torch_class = torch.optim.Adafactor
    Config = AdafactorConfig
    coupled_decay = False
    summary = "rates from factored mean squares"

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        return arguments | {"eps": (arguments.pop("eps1"), arguments.pop("eps2"))}
