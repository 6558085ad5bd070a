"""Newton's method with truncated conjugate gradients in a trust region."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.globalization import TrustRegion, check_radius, limits, noise_floor
from hybridopt.linalg import steihaug
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Objective
from hybridopt.optimizers.base import Optimizer
from hybridopt.optimizers.line_search_step import dot
from hybridopt.optimizers.newton_options import NewtonConfig, curvature_at

SHRINK = 0.6
"""Factor of the radius after a bad step: where the first products or the whole basis are kept, a rejection costs little
more than a forward pass, so the radius need not be cut as far as by the textbooks' 1/4."""


@dataclass
class TrustNewtonCGConfig(NewtonConfig):
    """Options of `TrustNewtonCG`.

    Attributes:
        radius: First trust radius.
        max_radius: Largest one.
        eta: A step is accepted when actual over predicted decrease exceeds this.
        shrink: Factor of the radius after a step of ratio below 1/4; None for `SHRINK`.
        forcing: Largest relative residual of the inner solve; it shrinks with the gradient.
        max_trials: Radii tried in one step, all on the same graph, until one is accepted.
        kept_products: Products of a step that a smaller radius need not take again, two vectors each.
    """

    max_cg: int = option(100, ge=1, search=("log", 5, 250), help="most iterations of the inner solver in a step")
    radius: float = option(1.0, gt=0, search=("log", 1e-2, 10.0), help="first trust radius")
    max_radius: float = option(1e10, gt=0, help="largest trust radius")
    eta: float = option(1e-4, ge=0, lt=0.25, help="a step is accepted when the ratio exceeds this")
    forcing: float = option(0.5, gt=0, lt=1, help="largest relative residual of the inner solve")
    max_trials: int = option(10, ge=1, help="radii tried in one step until one is accepted")
    shrink: float | None = option(None, gt=0, lt=1, help="factor of the radius after a bad step; null: 0.6")
    kept_products: int = option(10, ge=0, help="products that a smaller radius need not take again")

    def validate(self, owner: str) -> None:
        """Refuses a first radius beyond the largest one.

        Args:
            owner: Whose options, for the message.
        """
        check_radius(self.radius, self.max_radius, owner)


class TrustNewtonCG(Optimizer):
    """Trust-region Newton-CG (Steihaug 1983; Conn, Gould and Toint 2000, Algorithm 6.1.1).

    The model with the Hessian, indefinite as it may be, is minimised in a ball by Steihaug's truncated conjugate
    gradients. A rejected step costs a forward pass and another solve on the same kept graph, not another gradient; as
    the iterates of both solves agree until the smaller radius is met, the first products are not taken again.
    ``lr`` multiplies the step before the ratio test. The solver sees only the Krylov space of the gradient: at an
    exact saddle it does not move, and negative curvature orthogonal to the gradient needs an escape.

    Report: ``inner_iterations`` (products), ``status`` of the solver, ``ratio``, ``radius``, ``evaluations``;
    ``curvature`` where negative curvature was met.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = TrustNewtonCGConfig
    half_precision = False
    family = "newton"
    batch = "full"
    summary = "trust-region Newton with Steihaug's conjugate gradients"

    def update(self, objective: Objective) -> None:
        """Minimises the model in the trust region until a step is accepted.

        Args:
            objective: Bound to the parameters.
        """
        config, memory = self.config, self.memory
        radius = memory.setdefault("radius", config.radius)
        least, _ = limits(config.radius, 1e-12, config.max_radius)
        region = TrustRegion(
            eta1=config.eta, shrink=config.shrink or SHRINK, min_radius=least, max_radius=config.max_radius
        )
        with objective.at() as point:
            value, gradient = point.value, point.gradient
            length = float(torch.linalg.vector_norm(gradient))
            self.note(grad_norm=length, radius=radius, evaluations=0)
            if not self.can_descend(value, length):
                return
            if not self.can_move():
                return
            first = memory.setdefault("first_grad_norm", length)
            rtol = min(config.forcing, math.sqrt(length / first))
            operator = curvature_at(point, config.curvature)
            repeated = _Repeated(operator, config.kept_products)
            noise = noise_floor(value, objective.eps)
            origin = objective.position()
            rate = self.rate(objective)
            trials = 0
            accepted = False
            while not accepted and trials < config.max_trials and (trials == 0 or radius > region.min_radius):
                trials += 1
                repeated.restart()
                result = steihaug(repeated, gradient, radius, rtol=rtol, max_iter=config.max_cg)
                step, predicted = _scale(rate, result.solution, result.model_decrease, gradient, operator)
                actual = value - objective.value(origin + step)
                ratio = region.ratio(actual, predicted, noise)
                step_norm = float(torch.linalg.vector_norm(step))
                radius = region.update(radius, ratio, step_norm, result.at_boundary)
                accepted = region.accept(ratio)
                if result.curvature is not None:
                    self.note(curvature=result.curvature)
        if accepted:
            objective.commit(origin.add_(step))
        memory["radius"] = radius
        self.note(
            accepted=accepted,
            status=str(result.status),
            inner_iterations=repeated.products,
            evaluations=trials,
            ratio=ratio,
            radius=radius,
            step_norm=step_norm if accepted else 0.0,
        )

    def moved(self, objective: Objective, reason: str) -> None:
        """Takes the radius back to its start: collapsed at a saddle, it would never recover.

        Args:
            objective: The bound objective.
            reason: Why the parameters were moved.
        """
        self.memory["radius"] = self.config.radius


class _Repeated:
    """An operator that remembers its first products, for solves that begin with the same vectors."""

    def __init__(self, operator: SymmetricOperator, capacity: int) -> None:
        self.operator, self.capacity = operator, capacity
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.place = self.products = 0

    def restart(self) -> None:
        """Begins the next solve."""
        self.place = 0

    def __matmul__(self, vector: Tensor) -> Tensor:
        place, self.place = self.place, self.place + 1
        if place < len(self.kept) and torch.equal(self.kept[place][0], vector):
            return self.kept[place][1]
        self.products += 1
        product = self.operator @ vector
        if place < self.capacity:
            # The solver goes on in the place of its vector.
            self.kept[place:] = [(vector.clone(), product)]
        return product


def _scale(
    rate: float | Tensor, step: Tensor, decrease: float, gradient: Tensor, operator: SymmetricOperator
) -> tuple[Tensor, float]:
    """The step under the groups' rates, and the model's decrease along it."""
    if isinstance(rate, Tensor):
        step = rate * step
        return step, -(dot(gradient, step) + 0.5 * dot(step, operator @ step))
    if rate == 1.0:
        return step, decrease
    slope = dot(gradient, step)
    curvature = -2.0 * (decrease + slope)
    return rate * step, -(rate * slope + 0.5 * rate * rate * curvature)
