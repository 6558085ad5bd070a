"""A step along directions of negative curvature, found by randomized Lanczos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hybridopt.core import option
from hybridopt.escape.along import normal, search_along, with_noise
from hybridopt.escape.base import Escape, EscapeConfig, Proposal
from hybridopt.linalg.lanczos import lanczos
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


@dataclass
class NegativeCurvatureConfig(EscapeConfig):
    """Options of `NegativeCurvature`.

    Attributes:
        products: Hessian products for one search.
        tolerance: Curvature above minus this share of the largest eigenvalue counts as none.
        noise: Norm of the random part relative to the jump.
        first_step: First trial length of the jump.
        doublings: How often the trial length may be doubled, or halved.
    """

    products: int = option(30, ge=2, search=("log", 5, 100), help="Hessian products for one search")
    tolerance: float = option(1e-3, ge=0, help="curvature above -tolerance * largest eigenvalue counts as none")
    noise: float = option(0.1, ge=0, help="norm of the random part of the jump, relative to it")
    first_step: float = option(0.1, gt=0, search=("log", 1e-3, 1.0), help="first trial length of the jump")
    doublings: int = option(10, ge=0, help="how often the trial length may be doubled, or halved")


class NegativeCurvature(Escape):
    """Jumps along the negative part of the Hessian's spectrum, both signs and several lengths tried.

    Randomized Lanczos finds approximate eigenvectors; the jump is a random combination of all those with negative
    eigenvalues plus some noise, because a single eigenvector leads along a symmetric subspace to the next saddle. A
    direction that was only seen on a mini-batch is checked on the next one: there, at the end of the window, the
    transaction compares losses on data that had no part in choosing it.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = NegativeCurvatureConfig
    summary = "Lanczos directions of negative curvature, with a random part"

    def propose(self, optimizer: Stepping, objective: Objective, attempt: int, random: torch.Generator) -> Proposal:
        """Returns the best jump found along random combinations of directions of negative curvature.

        Args:
            optimizer: The optimizer at the stall.
            objective: Bound to its parameters.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator.
        """
        space = objective.space
        with objective.at() as point:
            start = normal(space.n, random, space)
            result = lanczos(point.hessian(), start, min(self.config.products, space.n))
            value = point.value
        values = result.ritz_values
        if values.numel() == 0:
            return Proposal(None, status=str(result.status), products=result.products)
        lowest, largest = float(values[0]), float(values.abs().max())
        details = {"lambda_min": lowest, "products": result.products}
        negative = values < -self.config.tolerance * largest
        if not bool(negative.any()):
            return Proposal(None, **details)
        weights = normal(int(negative.sum()), random, space) * values[negative].abs().sqrt().to(space.dtype)
        direction = result.ritz_vectors[:, negative].to(space.dtype) @ weights
        direction = with_noise(direction, self.config.noise, random, space)
        jump, gain = search_along(
            objective, direction, value, first_step=self.config.first_step, doublings=self.config.doublings
        )
        return Proposal(jump, decrease=gain, **details)
