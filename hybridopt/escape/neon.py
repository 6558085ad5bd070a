"""Negative curvature from gradients alone (NEON)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.escape.along import normal, search_along, with_noise
from hybridopt.escape.base import Escape, EscapeConfig, Proposal
from hybridopt.linalg.lanczos import lanczos
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


@dataclass
class NeonConfig(EscapeConfig):
    """Options of `Neon`.

    Attributes:
        solver: ``power``, the iteration of the paper, or ``lanczos`` on the same differences, which needs fewer.
        gradients: Gradients for one search, the one at the stall included.
        radius: Length of the displacement over which gradients are compared; 0 takes the square root of the rounding
            unit times the largest parameter entry, or times 1 if that is larger.
        tolerance: Curvature above minus this share of the largest seen counts as none.
        noise: Norm of the random part relative to the jump.
        first_step: First trial length of the jump.
        doublings: How often the trial length may be doubled, or halved.
    """

    solver: str = option("power", choices=["power", "lanczos"], help="how negative curvature is looked for")
    gradients: int = option(100, ge=3, search=("log", 10, 300), help="gradients for one search")
    radius: float = option(0.0, ge=0, help="displacement over which gradients are compared; 0: by the precision")
    tolerance: float = option(1e-3, ge=0, help="curvature above -tolerance * largest curvature counts as none")
    noise: float = option(0.1, ge=0, help="norm of the random part of the jump, relative to it")
    first_step: float = option(0.1, gt=0, search=("log", 1e-3, 1.0), help="first trial length of the jump")
    doublings: int = option(10, ge=0, help="how often the trial length may be doubled, or halved")


class Neon(Escape):
    """Finds negative curvature without Hessian products and jumps along it (Xu, Jin and Yang 2018, NEON).

    The paper's iteration ``u <- u - eta (grad f(x + u) - grad f(x))`` from a small random u is gradient descent on
    the function with its slope at x taken out; along negative curvature u grows. Two things are done otherwise. The
    length of u is brought back to `radius` after each update, as Allen-Zhu and Li do in NEON2 (2018), so that the
    differences stay those of the quadratic model; and eta is the inverse of the largest curvature met so far, which
    the paper takes as known. Then the curvature along u is ``u'(grad f(x + u) - grad f(x)) / ||u||^2``, and the search
    ends once that is negative and hardly changes. ``solver="lanczos"`` runs Lanczos on the same differences. The jump
    is searched along both signs, with noise added, as in `NegativeCurvature`.

    The differences are taken on the batch of the last step. Costs gradients and values only.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = NeonConfig
    summary = "negative curvature from gradient differences (Xu, Jin and Yang 2018)"

    def propose(self, optimizer: Stepping, objective: Objective, attempt: int, random: torch.Generator) -> Proposal:
        """Returns the best jump found along a direction of negative curvature.

        Args:
            optimizer: The optimizer at the stall.
            objective: Bound to its parameters.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator.
        """
        config, space = self.config, objective.space
        value, gradient = objective.value_and_grad()
        if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
            return Proposal(None, status="non_finite", gradients=1)
        differences = GradientDifferences(objective, gradient, config.radius)
        start = normal(space.n, random, space)
        search = _lanczos if config.solver == "lanczos" else _power
        curvature, largest, direction = search(differences, start, config.gradients - 1, config.tolerance)
        details = {"gradients": differences.used + 1}
        if math.isfinite(curvature):
            details["lambda_min"] = curvature
        if direction is None or not curvature < -config.tolerance * largest:
            return Proposal(None, **details)
        direction = with_noise(direction, config.noise, random, space)
        jump, gain = search_along(objective, direction, value, first_step=config.first_step, doublings=config.doublings)
        return Proposal(jump, decrease=gain, **details)


class GradientDifferences:
    """The Hessian at a point as differences of gradients: ``A @ v = (grad f(x + h v) - grad f(x)) / h``.

    The error is of order h times the third derivatives plus rounding over h.

    Args:
        objective: Stands at x.
        gradient: The gradient there, shape (n,).
        radius: Length of h v; 0 for the square root of the rounding unit times max(1, largest entry of x).
    """

    def __init__(self, objective: Objective, gradient: Tensor, radius: float = 0.0) -> None:
        self._objective, self._gradient = objective, gradient
        self._origin = objective.position()
        self.radius = radius or math.sqrt(objective.eps) * max(1.0, float(self._origin.abs().max()))
        self.used = 0

    def __matmul__(self, vector: Tensor) -> Tensor:
        length = float(torch.linalg.vector_norm(vector))
        if length == 0.0:
            return torch.zeros_like(vector)
        self.used += 1
        step = self.radius / length
        _, gradient = self._objective.value_and_grad(self._origin.add(vector, alpha=step))
        return (gradient - self._gradient) / step


def _power(A: GradientDifferences, start: Tensor, most: int, tolerance: float) -> tuple[float, float, Tensor | None]:
    """The paper's iteration at constant length; returns curvature, largest curvature and direction."""
    u = start / torch.linalg.vector_norm(start)
    largest, before = 0.0, math.inf
    curvature = math.nan
    for _ in range(most):
        product = A @ u
        curvature = float(u @ product)
        stretch = float(torch.linalg.vector_norm(product))
        if not math.isfinite(stretch):
            return math.nan, largest, None
        largest = max(largest, stretch)
        if largest == 0.0:
            return 0.0, 0.0, None
        if curvature < -tolerance * largest and before - curvature < 1e-3 * abs(curvature):
            break
        before = curvature
        u = u.sub(product, alpha=1.0 / largest)
        length = float(torch.linalg.vector_norm(u))
        if length <= 1e-12:
            # The start was an eigenvector of the largest curvature: nothing is left of it.
            return curvature, largest, None
        u = u / length
    return curvature, largest, u


def _lanczos(A: GradientDifferences, start: Tensor, most: int, tolerance: float) -> tuple[float, float, Tensor | None]:
    result = lanczos(A, start, min(most, start.numel()))
    if not result.ritz_values.numel():
        return math.nan, 0.0, None
    return float(result.ritz_values[0]), float(result.ritz_values.abs().max()), result.ritz_vector(0)
