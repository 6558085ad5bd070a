"""Methods that minimise a regularized quadratic model exactly in a Krylov space: one step, one graph, one basis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.escape.base import default_gtol
from hybridopt.globalization import noise_floor
from hybridopt.linalg import KrylovResult, KrylovSpace
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.newton_options import NewtonConfig, curvature_at
from hybridopt.optimizers.randomness import remembered


@dataclass
class KrylovModelConfig(NewtonConfig):
    """Options that `TrustGLTR` and `CubicNewton` share.

    Attributes:
        max_cg: Most Hessian products, and vectors kept, in one step.
        forcing: Largest relative residual of the inner solve; it shrinks with the gradient.
        progress_tol: While the region or cubic term holds the step back, the inner solve also ends when its last k =
            max(10, m/10) of m products lowered the model by less than k times this share; 0 switches that off.
        max_trials: Most steps tried on one graph, shortened after a rejection, lengthened after a very good one.
        seed: Of the random vectors for what the gradient does not see.
    """

    max_cg: int = option(100, ge=1, search=("log", 5, 250), help="most products, and vectors kept, in a step")
    forcing: float = option(
        0.5, gt=0, lt=1, search=[0.01, 0.1, 0.5], help="largest relative residual of the inner solve"
    )
    progress_tol: float = option(
        0.03, ge=0, search=[0.0, 0.01, 0.03], help="relative decrease per product that a regularized solve must bring"
    )
    max_trials: int = option(25, ge=1, help="most steps tried on one graph")
    seed: int = option(0, ge=0, help="seed of the random vectors for what the gradient does not see")


@dataclass(slots=True)
class Trial:
    """A step that was tried, and what it brought.

    Attributes:
        weight: Radius or sigma that it belongs to.
        result: The solver's.
        step: Shape (n,).
        value: The function there.
        ratio: Actual over predicted decrease.
    """

    weight: float
    result: KrylovResult
    step: Tensor
    value: float
    ratio: float

    @property
    def step_norm(self) -> float:
        """Length of the step."""
        return float(torch.linalg.vector_norm(self.step))


class KrylovModelMethod(Optimizer):
    """What a trust region and a cubic term have in common: a weight that says how long a step may be.

    The subclass names the solver of its model in a `KrylovSpace` and says how the weight moves. A rejected
    step is solved for again with a smaller region on the same basis, at the price of one evaluation of the function;
    a very good one is tried longer in the same way (Dennis and Schnabel 1996, section 6.4.3), and the lowest is taken.
    The basis is held in memory during a step: a vector of n entries a product, up to ``max_cg`` of them, where
    `trust_newton_cg` holds a handful.

    Where the gradient vanishes (to 1e-8 in float64, 1e-4 in float32) and the model promises no decrease that could be
    seen, a Krylov space that begins with a random vector is looked into as well, so that negative curvature is found
    which the gradient does not see, and the step leaves the saddle.
    """

    half_precision = False
    family = "newton"
    batch = "full"
    weight: str
    """Name of the weight in the config, the memory and the report."""
    minimise: Callable[..., KrylovResult]
    """The solver, `gltr` or `cubic_minimize`: (operator, gradient, weight) and options -> result."""

    def solve(self, space: KrylovSpace, gradient: Tensor, weight: float, rtol: float) -> KrylovResult:
        """Minimises the model with this weight in a Krylov space that may grow.

        Args:
            space: The space.
            gradient: Shape (n,).
            weight: Radius or sigma.
            rtol: Relative residual.
        """
        return self.minimise(
            space.A,
            gradient,
            weight,
            rtol=rtol,
            max_iter=self.config.max_cg,
            progress_tol=self.config.progress_tol,
            space=space,
        )

    def cubic_weight(self, weight: float) -> float:
        """Returns the weight of ``||s||^3 / 3`` in the model, zero for a trust region.

        Args:
            weight: Radius or sigma.
        """
        return 0.0

    def rule(self) -> Any:
        """Returns the acceptance rule, with `ratio` and `accept`.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say what it accepts: define rule.")

    def next_weight(self, rule: Any, trial: Trial) -> float:
        """Returns the weight after a trial.

        Args:
            rule: From `rule`.
            trial: The last one.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how its weight moves: define next_weight.")

    def longer(self, rule: Any, trial: Trial) -> float | None:
        """Returns the weight of a longer trial after an accepted one, or None where that is not worth an evaluation.

        Args:
            rule: From `rule`.
            trial: The accepted one.
        """
        return None

    def update(self, objective: Objective) -> None:
        """Minimises the model until a step is accepted.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        weight = memory.setdefault(self.weight, getattr(config, self.weight))
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, evaluations=0, inner_iterations=0, **{self.weight: weight})
            vanished = length == 0.0 and math.isfinite(value)
            if not vanished and not self.can_descend(value, length):
                return
            if not self.can_move():
                return
            # Relative to the largest so far, as a run that begins beside a saddle begins with a tiny one.
            largest = memory["largest_grad_norm"] = max(memory.get("largest_grad_norm", 0.0), length)
            rtol = min(config.forcing, math.sqrt(length / largest)) if largest > 0 else config.forcing
            operator = curvature_at(point, config.curvature)
            noise = noise_floor(value, objective.eps)
            space, products = self._space(operator, gradient, weight, noise)
            if space is None:
                self.note(inner_iterations=products)
                self.can_descend(value, length)
                return
            kept, weight, trials = self._try(objective, space, operator, gradient, weight, value, rtol, noise)
        products += space.products
        last = kept if kept is not None else trials[-1]
        if kept is not None:
            objective.commit(objective.position().add_(kept.step))
        memory[self.weight] = weight
        if last.result.curvature is not None:
            self.note(curvature=last.result.curvature)
        self.note(
            accepted=kept is not None,
            status=str(last.result.status),
            inner_iterations=products,
            evaluations=len(trials),
            ratio=last.ratio,
            step_norm=0.0 if kept is None else kept.step_norm,
            **{self.weight: weight},
        )

    def _space(
        self, operator: SymmetricOperator, gradient: Tensor, weight: float, noise: float
    ) -> tuple[KrylovSpace | None, int]:
        """The Krylov space of the step, or None where nothing leads downhill; and products spent on another."""
        generator = remembered(self.memory, self.config.seed)
        space = KrylovSpace(operator, gradient, generator=generator) if bool(gradient.any()) else None
        gtol = default_gtol(gradient.dtype)
        if operator.positive_semidefinite or float(gradient.abs().max()) > gtol:
            return space, 0
        promised = 0.0
        if space is not None:
            promised = self.solve(space, gradient, weight, self.config.forcing).model_decrease
        products = 0 if space is None else space.products
        if promised > max(noise, gtol * gtol):
            return space, 0
        probe = KrylovSpace(operator, gradient, generator=generator, random_start=True)
        found = self.solve(probe, gradient, weight, self.config.forcing)
        self.memory["random"] = generator.get_state()
        if found.curvature is not None and found.model_decrease > max(noise, promised):
            return probe, products
        return space, probe.products

    def _try(
        self,
        objective: Objective,
        space: KrylovSpace,
        operator: SymmetricOperator,
        gradient: Tensor,
        weight: float,
        value: float,
        rtol: float,
        noise: float,
    ) -> tuple[Trial | None, float, list[Trial]]:
        """Tries steps until one is accepted; returns it (or None), the next weight, and all trials."""
        rule, rate, origin = self.rule(), self.rate(objective), objective.position()
        trials: list[Trial] = []
        kept: Trial | None = None
        while len(trials) < self.config.max_trials:
            result = self.solve(space, gradient, weight, rtol)
            step, predicted = scaled_step(rate, result, gradient, operator, self.cubic_weight(weight))
            trial_value = objective.value(origin + step)
            trial = Trial(weight, result, step, trial_value, rule.ratio(value - trial_value, predicted, noise))
            trials.append(trial)
            if kept is not None and not (rule.accept(trial.ratio) and trial.value < kept.value):
                return kept, kept.weight, trials
            weight = self.next_weight(rule, trial)
            if rule.accept(trial.ratio):
                kept = trial
                further = None if len(trials) > 1 and not rule.accept(trials[0].ratio) else self.longer(rule, trial)
                if further is None:
                    break
                weight = further
            elif weight == trial.weight:
                break
        return kept, weight, trials

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes the weight back to its start: what it had adapted to is another point's.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory[self.weight] = getattr(self.config, self.weight)


def scaled_step(
    rate: float | Tensor, result: KrylovResult, gradient: Tensor, operator: SymmetricOperator, sigma: float
) -> tuple[Tensor, float]:
    """Returns the step under the groups' rates and the model's decrease along it.

    Args:
        rate: One rate, or a vector of them, shape (n,).
        result: The solver's.
        gradient: Shape (n,).
        operator: Curvature; a product is spent only where rates differ.
        sigma: Weight of ``||s||^3 / 3`` in the model.
    """
    step = result.solution
    if isinstance(rate, float) and rate == 1.0:
        return step, result.model_decrease
    cube = sigma / 3.0 * _cubed_norm(step)
    if isinstance(rate, Tensor):
        step = rate * step
        cube = sigma / 3.0 * _cubed_norm(step)
        return step, -(dot(gradient, step) + 0.5 * dot(step, operator @ step) + cube)
    slope = dot(gradient, step)
    curvature = -2.0 * (result.model_decrease + slope + cube)
    return rate * step, -(rate * slope + 0.5 * rate * rate * curvature + rate**3 * cube)


def _cubed_norm(step: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(step))
    return norm * norm * norm  # inf where it overflows, which a power of Python's is an error for
