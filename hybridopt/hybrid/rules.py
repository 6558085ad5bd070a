"""When a switch goes on to its next member."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, option
from hybridopt.hybrid.projection import ProjectedRate
from hybridopt.optimizers.tensor_lists import inner, total


@dataclass
class Until:
    """Options that say when a stage ends: at whichever is met first.

    Attributes:
        at_step: After this many of its steps; then the plateau does not count.
        plateau_window: When the mean loss of this many steps is hardly below that of as many before; 0 for never.
        plateau_tolerance: What hardly means, relatively.
        projection: When the rate of gradient descent that the steps amount to (Keskar and Socher 2017) is within this
            of its running mean. A successor that is a first-order method goes on at that rate.
        ratio_below: When the mean ratio of actual to predicted decrease (of methods with a model) falls below this.
        ratio_above: When it exceeds this.
        ratio_window: Steps of that mean.
        noise_scale: When the gradient noise scale, in samples, exceeds this (McCandlish et al. 2018).
        noise_window: Steps over which it is measured.
    """

    at_step: int | None = option(None, ge=0, help="switch after this many steps; null: leave it to the plateau")
    plateau_window: int = option(20, ge=0, help="steps of the windows whose mean losses are compared; 0: never")
    plateau_tolerance: float = option(0.02, ge=0, help="a relative decrease below this is a plateau")
    projection: float | None = option(None, gt=0, help="distance of the projected rate from its mean; null: never")
    ratio_below: float | None = option(None, help="mean actual over predicted decrease to fall below; null: never")
    ratio_above: float | None = option(None, help="mean actual over predicted decrease to exceed; null: never")
    ratio_window: int = option(10, ge=1, help="steps of that mean")
    noise_scale: float | None = option(None, gt=0, help="gradient noise scale in samples to exceed; null: never")
    noise_window: int = option(50, ge=2, help="steps over which the noise scale is measured")


@dataclass(frozen=True)
class Step:
    """What a rule may look at.

    Attributes:
        loss: At the step's start, a 0-dim tensor.
        report: Of the member.
        key: Names the batch.
        samples: Of the batch.
        gradients: At the step's start.
        moves: The displacement of the parameters that have a gradient, or None where no rule wants it.
    """

    loss: Tensor
    report: Any
    key: str
    samples: int
    gradients: Sequence[Tensor]
    moves: Sequence[Tensor] | None


def check_until(until: Until, member: Any, name: str) -> None:
    """Checks that a stage can end by its rules.

    Args:
        until: The rules.
        member: The optimizer of the stage.
        name: Its name.

    Raises:
        ConfigError: If there is no rule.
        CombinationError: If a rule needs what the member does not have.
    """
    rules = (until.at_step, until.plateau_window or None, until.projection, until.ratio_below, until.ratio_above)
    if all(rule is None for rule in (*rules, until.noise_scale)):
        raise ConfigError("A switch needs a rule: give at_step, or a plateau_window above 0.")
    if (until.ratio_below is not None or until.ratio_above is not None) and member.family != "newton":
        raise CombinationError(
            f"{name!r} has no model whose predictions could be compared with what happens. Use ratio rules after a "
            "Newton-type method such as trust_newton_cg, and a plateau, projection or noise_scale after this one."
        )


def due(until: Until, memory: dict[str, Any], step: Step) -> tuple[str, dict[str, float]] | None:
    """Looks at a step and says whether the stage is over.

    Args:
        until: The stage's rules.
        memory: What they remember, plain values and tensors; empty at the stage's start.
        step: The step just done.

    Returns:
        Which rule is met and its figures, or None.
    """
    memory["steps"] = memory.get("steps", 0) + 1
    found = None
    if until.at_step is not None:
        found = ("step", {}) if memory["steps"] >= until.at_step else None
    elif until.plateau_window:
        found = _plateau(until, memory, step)
    for rule, wanted in (
        (_projection, until.projection is not None),
        (_ratio, until.ratio_below is not None or until.ratio_above is not None),
        (_noise_scale, until.noise_scale is not None),
    ):
        if wanted:
            # Each looks at every step, also when another one is met.
            answer = rule(until, memory, step)
            found = found or answer
    return found


def _plateau(until: Until, memory: dict[str, Any], step: Step) -> tuple[str, dict[str, float]] | None:
    losses = memory.setdefault("losses", [])
    losses.append(step.loss)
    size = until.plateau_window
    if len(losses) < 2 * size:
        return None
    # Read once per window: reading each loss would make a GPU wait at every step.
    values = [float(item) for item in losses]
    before, after = sum(values[:size]) / size, sum(values[size:]) / size
    del losses[:size]
    return None if before - after > until.plateau_tolerance * abs(before) else ("plateau", {})


def _projection(until: Until, memory: dict[str, Any], step: Step) -> tuple[str, dict[str, float]] | None:
    if not step.gradients:
        return None
    rule = ProjectedRate(memory.setdefault("projection", {}), threshold=until.projection or 0.0)
    rate = rule.see(step.moves or (), step.gradients)
    return None if rate is None else ("projection", {"rate": rate})


def _ratio(until: Until, memory: dict[str, Any], step: Step) -> tuple[str, dict[str, float]] | None:
    ratio = step.report.ratio
    if ratio is None:
        return None
    ratios = memory.setdefault("ratios", [])
    # A step without any decrease is as bad as one can be; minus infinity would forget all others.
    ratios.append(max(-1.0, min(2.0, float(ratio))) if not math.isnan(ratio) else -1.0)
    del ratios[: -until.ratio_window]
    if len(ratios) < until.ratio_window:
        return None
    mean = sum(ratios) / len(ratios)
    low = until.ratio_below is not None and mean < until.ratio_below
    high = until.ratio_above is not None and mean > until.ratio_above
    return ("ratio", {"ratio": mean}) if low or high else None


def _noise_scale(until: Until, memory: dict[str, Any], step: Step) -> tuple[str, dict[str, float]] | None:
    """The simple noise scale tr(S) / |G|^2 of McCandlish et al. 2018, appendix A.

    The paper estimates |G|^2 and tr(S) from gradients on batches of two sizes. Here the gradients of successive steps
    stand for independent ones at the same point: E[g.g'] = |G|^2 and E[g.g] = |G|^2 + tr(S) / B. Both means are taken
    over a window, so that the quotient is one of means. Where the batch does not change there is no noise.
    """
    memory_ = memory.setdefault("noise", {"key": "", "last": None, "squares": None, "products": None, "seen": 0})
    gradients = [gradient.detach().clone() for gradient in step.gradients]
    last, same = memory_["last"], memory_["key"] == step.key
    memory_.update(key=step.key, last=gradients)
    if same or not gradients or last is None or [g.shape for g in last] != [g.shape for g in gradients]:
        return None
    square = total([norm**2 for norm in torch._foreach_norm(gradients)])
    product = inner(gradients, last)
    seen = memory_["seen"]
    memory_["squares"] = square if not seen else memory_["squares"] + square
    memory_["products"] = product if not seen else memory_["products"] + product
    memory_["seen"] = seen + 1
    if memory_["seen"] < until.noise_window:
        return None
    count = memory_["seen"]
    squares, signal = float(memory_["squares"]) / count, float(memory_["products"]) / count
    memory_["seen"] = 0
    noise = step.samples * (squares - signal)
    scale = noise / signal if signal > 0 else math.inf
    return ("noise_scale", {"noise_scale": scale}) if scale > (until.noise_scale or 0.0) else None
