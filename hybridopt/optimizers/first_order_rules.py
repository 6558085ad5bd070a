"""The rules of the first-order methods.

Formulas and names of state are those of `torch.optim`, whose classes the tests compare with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from hybridopt.optimizers.rules import Hyper, Rule, State, coupled, decayed, decoupled, like, mean, mean_square


@dataclasses.dataclass(frozen=True)
class Descent(Rule):
    """Gradient descent."""

    counted = False

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        return torch.addcmul(p, coupled(p, g, hyper), like(-hyper["lr"], p)), {}


@dataclasses.dataclass(frozen=True)
class HeavyBall(Rule):
    """Gradient descent with momentum.

    Attributes:
        nesterov: Whether the step looks ahead.
    """

    nesterov: bool = False
    numbers = ("lr", "weight_decay", "momentum", "dampening")
    buffers = ("momentum_buffer",)
    counted = False

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        g = coupled(p, g, hyper)
        entering = torch.where(t == 1, torch.ones_like(t), 1 - hyper["dampening"])  # the first is taken whole
        momentum = like(hyper["momentum"], p)
        buffer = state["momentum_buffer"] * momentum + g * like(entering, p)
        direction = torch.addcmul(g, buffer, momentum) if self.nesterov else buffer
        return torch.addcmul(p, direction, like(-hyper["lr"], p)), {"momentum_buffer": buffer}


@dataclasses.dataclass(frozen=True)
class Moments(Rule):
    """Adam, AdamW and AMSGrad.

    Attributes:
        decoupling: Whether the decay is decoupled.
        largest: Whether the largest mean square so far is in the denominator.
    """

    decoupling: bool = False
    largest: bool = False
    numbers = ("lr", "weight_decay", "betas", "eps")

    @property
    def buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        """State that starts at zero."""
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if self.largest else ()))

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        p, g = decayed(p, g, hyper, self.decoupling)
        first = mean(state["exp_avg"], g, hyper["beta1"])
        second = mean_square(state["exp_avg_sq"], g, hyper["beta2"])
        after = {"exp_avg": first, "exp_avg_sq": second}
        if self.largest:
            second = after["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], second)
        root = (1 - hyper["beta2"] ** t).sqrt()
        step = hyper["lr"] / (1 - hyper["beta1"] ** t)
        denominator = second.sqrt() / like(root, p) + like(hyper["eps"], p)
        return torch.addcmul(p, first / denominator, like(-step, p)), after


@dataclasses.dataclass(frozen=True)
class SumOfSquares(Rule):
    """Adagrad."""

    numbers = ("lr", "weight_decay", "lr_decay", "initial_accumulator_value", "eps")

    def init(self, p: Tensor, hyper: Hyper) -> State:
        """See `Rule.init`."""
        return {"sum": torch.zeros_like(p) + like(hyper["initial_accumulator_value"], p)}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        g = coupled(p, g, hyper)
        total = torch.addcmul(state["sum"], g, g)
        rate = hyper["lr"] / (1 + (t - 1) * hyper["lr_decay"])
        return torch.addcmul(p, g / (total.sqrt() + like(hyper["eps"], p)), like(-rate, p)), {"sum": total}


@dataclasses.dataclass(frozen=True)
class RootMeanSquare(Rule):
    """RMSprop.

    Attributes:
        centered: Whether the squared mean gradient is subtracted.
        momentum: Whether there is momentum.
    """

    centered: bool = False
    momentum: bool = False
    numbers = ("lr", "weight_decay", "alpha", "eps", "momentum")

    def of(self, config: Any) -> Rule:
        """See `Rule.of`."""
        return RootMeanSquare(centered=config.centered, momentum=config.momentum > 0)

    @property
    def buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        """State that starts at zero."""
        chosen = {"momentum_buffer": self.momentum, "grad_avg": self.centered}
        return ("square_avg", *(name for name, present in chosen.items() if present))

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        g = coupled(p, g, hyper)
        square = mean_square(state["square_avg"], g, hyper["alpha"])
        after = {"square_avg": square}
        if self.centered:
            average = after["grad_avg"] = mean(state["grad_avg"], g, hyper["alpha"])
            square = torch.addcmul(square, average, average, value=-1)
        direction = g / (square.sqrt() + like(hyper["eps"], p))
        if self.momentum:
            direction = direction + state["momentum_buffer"] * like(hyper["momentum"], p)
            after["momentum_buffer"] = direction
        return torch.addcmul(p, direction, like(-hyper["lr"], p)), after


@dataclasses.dataclass(frozen=True)
class SquaredSteps(Rule):
    """Adadelta."""

    numbers = ("lr", "weight_decay", "rho", "eps")
    buffers = ("square_avg", "acc_delta")

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        g = coupled(p, g, hyper)
        eps = like(hyper["eps"], p)
        square = mean_square(state["square_avg"], g, hyper["rho"])
        delta = (state["acc_delta"] + eps).sqrt() / (square + eps).sqrt() * g
        after = {"square_avg": square, "acc_delta": mean_square(state["acc_delta"], delta, hyper["rho"])}
        return torch.addcmul(p, delta, like(-hyper["lr"], p)), after


@dataclasses.dataclass(frozen=True)
class LargestMoment(Rule):
    """Adamax."""

    numbers = ("lr", "weight_decay", "betas", "eps")
    buffers = ("exp_avg", "exp_inf")

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        g = coupled(p, g, hyper)
        first = mean(state["exp_avg"], g, hyper["beta1"])
        largest = torch.maximum(state["exp_inf"] * like(hyper["beta2"], p), g.abs() + like(hyper["eps"], p))
        step = hyper["lr"] / (1 - hyper["beta1"] ** t)
        return torch.addcmul(p, first / largest, like(-step, p)), {"exp_avg": first, "exp_inf": largest}


@dataclasses.dataclass(frozen=True)
class RectifiedMoments(Rule):
    """RAdam.

    Attributes:
        decoupling: Whether the decay is decoupled.
    """

    decoupling: bool = False
    numbers = ("lr", "weight_decay", "betas", "eps")
    buffers = ("exp_avg", "exp_avg_sq")

    def of(self, config: Any) -> Rule:
        """See `Rule.of`."""
        return RectifiedMoments(decoupling=config.decoupled_weight_decay)

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        p, g = decayed(p, g, hyper, self.decoupling)
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        first, second = mean(state["exp_avg"], g, beta1), mean_square(state["exp_avg_sq"], g, beta2)
        correction = 1 - beta2**t
        limit = 2 / (1 - beta2) - 1
        length = limit - 2 * t * beta2**t / correction
        waits = length <= 5
        rect = ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)).clamp(min=0.0)
        adapted = like((correction * rect).sqrt(), p) / (second.sqrt() + like(hyper["eps"], p))
        step = like(-hyper["lr"] / (1 - beta1**t), p)
        direction = first * torch.where(waits, torch.ones_like(p), adapted)
        return torch.addcmul(p, direction, step), {"exp_avg": first, "exp_avg_sq": second}


@dataclasses.dataclass(frozen=True)
class NesterovMoments(Rule):
    """NAdam; its product of momenta is one number a tensor, so it is not elementwise.

    Attributes:
        decoupling: Whether the decay is decoupled.
    """

    decoupling: bool = False
    numbers = ("lr", "weight_decay", "betas", "eps", "momentum_decay")
    buffers = ("exp_avg", "exp_avg_sq")
    elementwise = False

    def of(self, config: Any) -> Rule:
        """See `Rule.of`."""
        return NesterovMoments(decoupling=config.decoupled_weight_decay)

    def init(self, p: Tensor, hyper: Hyper) -> State:
        """See `Rule.init`."""
        # Torch keeps the product in the default precision, whatever the parameter's.
        return {**super().init(p, hyper), "mu_product": torch.ones((), device=p.device)}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        p, g = decayed(p, g, hyper, self.decoupling)
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        now = beta1 * (1 - 0.5 * 0.96 ** (t * hyper["momentum_decay"]))
        following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * hyper["momentum_decay"]))
        product = state["mu_product"] * now.to(state["mu_product"].dtype)
        first, second = mean(state["exp_avg"], g, beta1), mean_square(state["exp_avg_sq"], g, beta2)
        denominator = (second / like(1 - beta2**t, p)).sqrt() + like(hyper["eps"], p)
        of_gradient = -hyper["lr"] * (1 - now) / (1 - product.double())
        of_mean = -hyper["lr"] * following / (1 - product.double() * following)
        p = torch.addcmul(p, g / denominator, like(of_gradient, p))
        p = torch.addcmul(p, first / denominator, like(of_mean, p))
        return p, {"exp_avg": first, "exp_avg_sq": second, "mu_product": product}


@dataclasses.dataclass(frozen=True)
class SignOfMomentum(Rule):
    """Lion."""

    numbers = ("lr", "weight_decay", "betas")
    buffers = ("exp_avg",)
    counted = False

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """See `Rule.update`."""
        direction = mean(state["exp_avg"], g, hyper["beta1"]).sign()
        p = torch.addcmul(decoupled(p, hyper), direction, like(-hyper["lr"], p))
        return p, {"exp_avg": mean(state["exp_avg"], g, hyper["beta2"])}
