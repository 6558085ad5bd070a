"""What K-FAC and EK-FAC share: averaged factors, the two-dimensional model, the dampings, the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hybridopt.core import CombinationError, option
from hybridopt.curvature.kronecker.cotangents import KINDS
from hybridopt.curvature.kronecker.factors import SETTINGS
from hybridopt.curvature.kronecker.operators import parameter_names
from hybridopt.curvature.kronecker.running import Running
from hybridopt.curvature.kronecker.statistics import Recipe, Statistics, statistics
from hybridopt.globalization import LevenbergMarquardt, TrustRegion, armijo, noise_floor
from hybridopt.linalg.operator import Identity
from hybridopt.objective import Objective, Point
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.randomness import remembered

BASE = 19 / 20
"""Both dampings change by powers of this (Martens and Grosse 2015, sections 6.5 and 6.6)."""

SMALLEST = 1e-10
"""The damping of the factors never falls below this, or it could not keep float32 inverses finite."""


@dataclass
class KroneckerConfig:
    """Options of `KFAC` and `EKFAC`.

    Attributes:
        lr: A factor on the step.
        weight_decay: w adds w/2 ||p||^2 to the function.
        damping: First multiple l of the identity in the quadratic model. The paper starts at 150 on a loss summed over
            the outputs; a mean loss wants less.
        scaling: How long the step is. ``exact``: it minimises the model with the exact Gauss-Newton matrix over the
            preconditioned gradient and the last step, and both dampings adapt. ``kl_clip``: a bound on the model's
            Kullback-Leibler divergence; ``none``: ``lr`` alone. These two cost no products and keep the damping.
        momentum: 0 for none; else with ``exact`` the model finds the weight of the last step, and with the others this
            is the weight.
        kl_clip: With ``scaling="kl_clip"``, the bound on lr^2 g'd for the gradient g and the direction d.
        fisher: Where the factors come from, see `hybridopt.curvature.KFAC`; ``auto`` draws targets from the model where
            the loss stands for a known distribution, and for any other loss that is convex in the outputs takes random
            signs times the root of its Hessian.
        samples: Draws per datum.
        setting: ``expand`` or ``reduce``, how shared weights are approximated; ``nearest`` is nearly the Kronecker
            product that is nearest to each block, and dearer; ``auto`` is that for recurrent layers, whose steps are
            far from independent, and ``expand`` for all others.
        average: Weight of the past in the averages of the factors, at most.
        statistics_every: Steps from one update of the averages to the next.
        refresh_every: Steps from one eigendecomposition to the next; the first three steps all take one.
        damping_every: Steps from one adaptation of l to the next.
        split_every: Steps from one adaptation of the damping of the factors to the next.
        max_evaluations: Most trials for the length of one step.
        seed: Of the draws.
    """

    lr: float = option(1.0, ge=0, search=[1.0], help="a factor on the step")
    weight_decay: float = option(0.0, ge=0, search=("log", 1e-6, 1e-2), help="w adds w/2 ||p||^2 to the function")
    damping: float = option(1e-3, gt=0, search=("log", 1e-4, 10.0), help="first multiple of the identity in the model")
    scaling: str = option("exact", choices=["exact", "kl_clip", "none"], help="how long the step is")
    momentum: float = option(0.9, ge=0, lt=1, help="0 for none; its weight where scaling is not exact")
    kl_clip: float = option(1e-3, gt=0, search=("log", 1e-4, 1e-1), help="bound on the divergence, scaling=kl_clip")
    fisher: str = option("auto", choices=list(KINDS), help="where the factors come from")
    samples: int = option(1, ge=1, help="draws per datum")
    setting: str = option(
        "auto", choices=list(SETTINGS), search=list(SETTINGS), help="how shared weights are approximated"
    )
    average: float = option(0.95, ge=0, lt=1, search=[0.8, 0.95, 0.99], help="weight of the past in the averages")
    statistics_every: int = option(1, ge=1, help="steps between updates of the averages")
    refresh_every: int = option(20, ge=1, search=[5, 20, 100], help="steps between eigendecompositions")
    damping_every: int = option(5, ge=1, help="steps between adaptations of the damping")
    split_every: int = option(20, ge=1, help="steps between adaptations of the factors' damping")
    max_evaluations: int = option(20, ge=1, help="most trials for the length of a step")
    seed: int = option(0, ge=0, help="of the draws")


class KroneckerStep(Optimizer):
    """Base of `KFAC` and `EKFAC`; see there."""

    Config = KroneckerConfig
    half_precision = False
    family = "structured"
    batch = "large"
    corrected: ClassVar[bool] = False

    def update(self, objective: Objective) -> None:
        """Averages the factors, takes the direction, scales it and moves.

        Args:
            objective: Bound to the parameters.

        Raises:
            CombinationError: If the objective is no model with a loss function, or has no layer that is known.
        """
        if objective.loss_fn is None:
            raise CombinationError(
                f"{type(self).__name__} needs a model made of layers whose outputs go through a loss function, as in "
                "Objective(model, loss_fn, inputs, targets). For other functions use lbfgs or newton_cg."
            )
        memory = self.memory
        self._check_trainable()
        memory.setdefault("damping", self.config.damping)
        memory.setdefault("split", self.config.damping)
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, damping=memory["damping"])
            if not self.can_descend(value, length):
                return
            factors = self._average(point)
            memory["step"] = memory.get("step", 0) + 1
            lr, relative = self._rates(objective)
            if not factors.count or lr == 0.0:
                status = "zero_rate" if factors.count else "non_finite"
                self.note(accepted=False, status=status, step_norm=0.0)
                return
            self.note(fallback=memory["fallback"])
            if self.config.scaling == "exact":
                plan = self._minimise(point, factors, relative)
        if self.config.scaling == "exact":
            self._search(objective, plan, lr, value)
        else:
            self._go(objective, factors, gradient, lr, relative)

    # -- the factors -----------------------------------------------------------------------------------------------

    def _check_trainable(self) -> None:
        """Forgets what belongs to another set of trainable parameters."""
        now = [int(p.requires_grad) for group in self.param_groups for p in group["params"]]
        if self.memory.get("trainable", now) != now:
            for name in ("factors", "last"):
                self.memory.pop(name, None)
        self.memory["trainable"] = now

    def _average(self, point: Point) -> Running:
        """Averages the factors of this batch in, and takes their eigenvectors where it is time."""
        config, memory = self.config, self.memory
        factors = Running(memory.setdefault("factors", {}), corrected=self.corrected)
        done = memory.get("step", 0) if factors.count else 0
        if done % config.statistics_every and factors.count:
            return factors
        generator = remembered(memory, config.seed)
        found = statistics(
            point,
            Recipe(config.fisher, config.samples, config.setting),
            generator,
            bases=factors.bases() if self.corrected else None,
            excluded=factors.excluded,
        )
        memory["random"] = generator.get_state()
        if not _finite(found):
            self.note(skipped_statistics=True)
            return factors
        fresh = factors.count == 0 or factors.layers != found.layers
        factors.update(found, config.average)
        if fresh:
            names = parameter_names(point.objective)
            memory["fallback"] = ", ".join(names[place] for place in found.rest)
        if fresh or done < 3 or done % config.refresh_every == 0:
            factors.refresh()
        return factors

    def _damping(self, objective: Objective, split: float) -> list[float]:
        """Returns the damping of each parameter's block: that of the factors, and its weight decay."""
        decay = {id(p): float(group["weight_decay"]) for group in self.param_groups for p in group["params"]}
        return [split + decay[id(parameter)] for parameter in objective.space.parameters]

    def _rates(self, objective: Objective) -> tuple[float, Tensor | None]:
        """Returns the largest ``lr`` of the groups, and all others relative to it, shape (n,), if they differ."""
        rate = self.rate(objective)
        if not isinstance(rate, Tensor):
            return rate, None
        largest = float(rate.max())
        return largest, rate / largest if largest > 0 else None

    # -- the step with the exact model -----------------------------------------------------------------------------

    def _minimise(self, point: Point, factors: Running, relative: Tensor | None) -> Plan:
        """Finds the step that minimises the model over the preconditioned gradient and the last step.

        Section 7 of the paper; every `split_every` steps for three dampings of the factors, of which the best stays
        (section 6.6).
        """
        config, memory = self.config, self.memory
        operator = point.gauss_newton() + memory["damping"] * Identity()
        pairs: list[tuple[Tensor, Tensor]] = []
        if config.momentum > 0 and "last" in memory:
            last = memory["last"] if relative is None else memory["last"] * (relative > 0)
            pairs.append((last, operator @ last))
        splits = [memory["split"]]
        if memory["step"] % config.split_every == 0:
            factor = BASE**config.split_every
            splits += [max(factor * memory["split"], SMALLEST), memory["split"] / factor]
        best: Plan | None = None
        for split in splits:
            ahead = factors.solve(point.space, point.gradient, self._damping(point.objective, split)).neg_()
            if relative is not None:
                ahead *= relative
            plan = minimise([(ahead, operator @ ahead), *pairs], point.gradient)
            if best is None or plan.decrease(1.0) > best.decrease(1.0):
                best, memory["split"] = plan, split
        assert best is not None
        first, *second = best.coefficients
        self.note(rescaling=first, momentum=second[0] if second else 0.0, split=memory["split"])
        return best

    def _search(self, objective: Objective, plan: Plan, lr: float, value: float) -> None:
        """Goes the step, shortened where the function does not fall, and adapts the damping."""
        config, memory = self.config, self.memory
        origin = objective.position()
        noise = noise_floor(value, objective.eps)
        result = armijo(
            lambda t: objective.value(origin.add(plan.step, alpha=t)),
            value,
            plan.slope,
            step0=lr,
            max_evaluations=config.max_evaluations,
            noise=noise,
        )
        accepted = result.step > 0
        memory.pop("last", None)
        if accepted:
            objective.commit(origin.add_(plan.step, alpha=result.step))
            memory["last"] = plan.step.mul_(result.step)
        whole = accepted and result.step == lr
        ratio = TrustRegion().ratio(value - result.value, plan.decrease(lr), noise) if whole else -math.inf
        factor = BASE**config.damping_every
        rule = LevenbergMarquardt(increase=1 / factor, decrease=factor)
        if not whole:
            memory["damping"] = min(memory["damping"] * factor ** -max(1, result.evaluations - 1), rule.max_damping)
        elif memory["step"] % config.damping_every == 0:
            memory["damping"] = rule.update(memory["damping"], ratio)
        self.note(
            accepted=accepted,
            status=str(result.status),
            evaluations=result.evaluations,
            step_size=result.step,
            step_norm=float(torch.linalg.vector_norm(memory["last"])) if accepted else 0.0,
            ratio=ratio,
            damping=memory["damping"],
        )

    # -- the cheap step --------------------------------------------------------------------------------------------

    def _go(self, objective: Objective, factors: Running, gradient: Tensor, lr: float, relative: Tensor | None) -> None:
        """Goes along the preconditioned gradient with momentum, without looking at the function."""
        config, memory = self.config, self.memory
        ahead = factors.solve(objective.space, gradient, self._damping(objective, memory["split"])).neg_()
        if relative is not None:
            ahead *= relative
        if config.scaling == "kl_clip":
            divergence = -(lr**2) * dot(gradient, ahead)
            if divergence > config.kl_clip:
                ahead *= math.sqrt(config.kl_clip / divergence)
        if config.momentum > 0:
            if "last" in memory:
                ahead.add_(memory["last"], alpha=config.momentum)
            memory["last"] = ahead
        step = lr * ahead if relative is None else lr * ahead * (relative > 0)
        length = float(torch.linalg.vector_norm(step))
        if not math.isfinite(length):
            memory.pop("last", None)
            self.note(accepted=False, status="non_finite", step_norm=0.0)
            return
        objective.commit(objective.position().add_(step))
        self.note(accepted=True, status="stepped", step_norm=length)

    def moved(self, objective: Objective, reason: str) -> None:
        """Drops the last step and takes the dampings back: they belong to the point that was left.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory.pop("last", None)
        self.memory["damping"] = self.memory["split"] = self.config.damping


@dataclass(frozen=True)
class Plan:
    """A step and the quadratic model along it.

    Attributes:
        step: Shape (n,).
        coefficients: Of the directions that it is made of.
        slope: Derivative of the function along it.
        curvature: Of the model along it.
    """

    step: Tensor
    coefficients: Sequence[float]
    slope: float
    curvature: float

    def decrease(self, length: float) -> float:
        """Returns by how much the model falls along a multiple of the step.

        Args:
            length: The multiple.
        """
        return -length * (self.slope + 0.5 * length * self.curvature)


def minimise(pairs: Sequence[tuple[Tensor, Tensor]], gradient: Tensor) -> Plan:
    """Minimises a quadratic model over the span of one or two directions.

    The second direction is left out where it is nearly a multiple of the first, or the model is not convex.

    Args:
        pairs: Directions p, the first one of descent, and B p.
        gradient: Shape (n,).
    """
    (p, bp), *rest = pairs
    slope, curvature = dot(gradient, p), dot(p, bp)
    alone = Plan(p, [1.0], slope, curvature)
    if not (curvature > 0 and slope < 0):
        return alone
    if rest:
        ((q, bq),) = rest
        other, across, along = dot(gradient, q), dot(p, bq), dot(q, bq)
        determinant = curvature * along - across * across
        if determinant > 1e-6 * curvature * along:
            alpha = (across * other - along * slope) / determinant
            mu = (across * slope - curvature * other) / determinant
            length = alpha * slope + mu * other
            return Plan((alpha * p).add_(q, alpha=mu), [alpha, mu], length, -length)
    alpha = -slope / curvature
    return Plan(alpha * p, [alpha], alpha * slope, alpha * alpha * curvature)


def _finite(found: Statistics) -> bool:
    parts = [*found.inputs.values(), *found.outputs.values(), *found.squares.values(), *found.diagonal]
    return bool(torch.isfinite(torch.stack([part.sum() for part in parts])).all())
