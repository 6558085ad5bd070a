"""First-order methods as pure functions of one tensor, so that many runs can be stepped at once.

A `Rule` says the same as the torch class of its method, without writing to anything: from a tensor, its gradient, its
state and numbers it computes the next tensor and state. ``torch.func.vmap`` maps that over a dimension of runs
("lanes"), each with numbers of its own; a rule that is `elementwise` may also be given the lanes' numbers with shape
(lanes, 1) beside tensors of shape (lanes, n), which is cheaper. Formulas and names of state are those of
`torch.optim`, whose classes the tests compare with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

Hyper = Mapping[str, Tensor]
"""Numbers of a method by name, float64: 0-dim, or of shape (lanes, 1) for an elementwise rule."""

State = dict[str, Tensor]
"""What a rule remembers of one tensor, under the names that the torch class uses."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One step of a method on one tensor; a subclass writes `update`, and names what it needs.

    Instances are equal if the same function of tensors computes them: runs whose rules are equal may share a call.
    """

    numbers: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")
    """Options that enter as numbers, and may differ between lanes."""
    buffers: ClassVar[tuple[str, ...]] = ()
    """State of the tensor's own shape that starts at zero."""
    elementwise: ClassVar[bool] = True
    """Whether an entry of the result depends on that entry of the arguments alone."""
    counted: ClassVar[bool] = True
    """Whether the torch class keeps the number of steps in its state, as ``step``."""

    def of(self, config: Any) -> Rule:
        """Returns the rule under the options of an optimizer's config that choose the function.

        Args:
            config: The optimizer's checked config.
        """
        return self

    def refusal(self, config: Any) -> str | None:
        """Returns which option the rule cannot follow, or None.

        Args:
            config: The optimizer's checked config.
        """
        return "hypergradient" if getattr(config, "hypergradient", 0.0) else None

    def hyper(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the numbers of a param group by name; ``betas`` become ``beta1`` and ``beta2``.

        Args:
            group: As the optimizer holds it.
        """
        values: dict[str, float] = {}
        for name in self.numbers:
            if name == "betas":
                values["beta1"], values["beta2"] = (float(beta) for beta in group["betas"])
            else:
                values[name] = float(group[name])
        return values

    def init(self, p: Tensor, hyper: Hyper) -> State:
        """Returns the state before the first step.

        Args:
            p: The tensor.
            hyper: The method's numbers.
        """
        return {name: torch.zeros_like(p) for name in self.buffers}

    def update(self, p: Tensor, g: Tensor, state: State, hyper: Hyper, t: Tensor) -> tuple[Tensor, State]:
        """Returns the tensor and the state after a step; the arguments are left as they are.

        Args:
            p: The tensor.
            g: Its gradient.
            state: From the last step, or from `init`.
            hyper: The method's numbers; ``weight_decay`` may be missing, which is none.
            t: Number of this step, from 1, float64, shaped as the numbers are.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it steps: define update(self, p, g, state, hyper, t).")


def declared(cls: type) -> Rule | None:
    """Returns the rule that a class declares as ``rule``, or None.

    A subclass may step otherwise than its base, so it does not inherit the rule.

    Args:
        cls: An optimizer class.
    """
    rule = vars(cls).get("rule")
    return rule if isinstance(rule, Rule) else None  # the name may stand for something else


def coupled(p: Tensor, g: Tensor, hyper: Hyper) -> Tensor:
    """Returns the gradient with that of the L2 term.

    Args:
        p: The tensor.
        g: Its gradient.
        hyper: May hold ``weight_decay``.
    """
    decay = hyper.get("weight_decay")
    return g if decay is None else torch.addcmul(g, p, like(decay, p))


def decoupled(p: Tensor, hyper: Hyper) -> Tensor:
    """Returns the tensor shrunk by the decoupled decay.

    Args:
        p: The tensor.
        hyper: Holds ``lr``, and may hold ``weight_decay``.
    """
    decay = hyper.get("weight_decay")
    return p if decay is None else p * like(1 - hyper["lr"] * decay, p)


def decayed(p: Tensor, g: Tensor, hyper: Hyper, decoupling: bool) -> tuple[Tensor, Tensor]:
    """Returns the tensor and its gradient after the decay, which changes one of the two.

    Args:
        p: The tensor.
        g: Its gradient.
        hyper: Holds ``lr``, and may hold ``weight_decay``.
        decoupling: Whether the decay is decoupled.
    """
    return (decoupled(p, hyper), g) if decoupling else (p, coupled(p, g, hyper))


def like(number: Tensor, p: Tensor) -> Tensor:
    """Returns a number in the precision of a tensor; arithmetic of numbers alone is done in float64, as torch does.

    Args:
        number: 0-dim or (lanes, 1).
        p: The tensor.
    """
    return number.to(p.dtype)


def mean(old: Tensor, new: Tensor, decay: Tensor) -> Tensor:
    """Returns ``decay * old + (1 - decay) * new``.

    Args:
        old: The mean so far.
        new: What enters.
        decay: A number.
    """
    return torch.lerp(old, new, like(1 - decay, old))


def mean_square(old: Tensor, new: Tensor, decay: Tensor) -> Tensor:
    """Returns ``decay * old + (1 - decay) * new^2``.

    Args:
        old: The mean so far.
        new: Whose square enters.
        decay: A number.
    """
    return old * like(decay, old) + new.square() * like(1 - decay, old)


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
