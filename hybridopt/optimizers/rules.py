"""First-order methods as pure functions of one tensor, so that many runs can be stepped at once.

A `Rule` says the same as the torch class of its method, without writing to anything: from a tensor, its gradient, its
state and numbers it computes the next tensor and state. ``torch.func.vmap`` maps that over a dimension of runs
("lanes"), each with numbers of its own; a rule that is `elementwise` may also be given the lanes' numbers with shape
(lanes, 1) beside tensors of shape (lanes, n), which is cheaper. The rules of the methods here are in
`first_order_rules`.
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
