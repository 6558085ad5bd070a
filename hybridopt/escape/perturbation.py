"""Perturbation by uniform noise in a ball (Jin et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hybridopt.core import option
from hybridopt.escape.along import on_sphere
from hybridopt.escape.base import Escape, EscapeConfig, Proposal
from hybridopt.escape.snapshot import STATE
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


@dataclass
class PerturbationConfig(EscapeConfig):
    """Options of `Perturbation`.

    Attributes:
        radius: Of the ball at the first try.
        growth: Factor on the radius from one try to the next, and from one stall in vain to the next.
        max_radius: The radius never grows beyond this.
    """

    radius: float = option(1e-2, gt=0, search=("log", 1e-4, 1.0), help="radius of the ball at the first try")
    growth: float = option(3.0, ge=1, help="factor on the radius from one try to the next")
    max_radius: float = option(1.0, gt=0, help="largest radius that growth leads to")


class Perturbation(Escape):
    """Jumps to a uniformly random point of a ball around the stall.

    Jin, Ge, Netrapalli, Kakade and Jordan 2017, "How to Escape Saddle Points Efficiently", Algorithm 2. Their noise
    is added to gradient descent with constants from the function's smoothness; here it is a transaction around any
    optimizer, with a radius that grows when a try fails, and starts larger after a stall that no try could leave: a
    slow optimizer has to start farther from the saddle to have left it by the end of the window. Costs no curvature
    products.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = PerturbationConfig
    summary = "uniform noise in a ball (Jin et al. 2017)"

    def propose(
        self, optimizer: Stepping | None, objective: Objective, attempt: int, random: torch.Generator
    ) -> Proposal:
        """Returns a uniformly random point of a ball.

        Args:
            optimizer: The optimizer at the stall; None stands for one that has not met a stall in vain.
            objective: Bound to its parameters.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator.
        """
        radius = self._radius(optimizer, attempt)
        space = objective.space
        share = float(torch.rand((), generator=random, dtype=torch.float64, device="cpu")) ** (1 / space.n)
        return Proposal(on_sphere(space, radius * share, random), radius=radius)

    def _radius(self, optimizer: Stepping | None, attempt: int) -> float:
        config = self.config
        vain = optimizer.state[STATE].get("vain", 0) if optimizer is not None else 0  # type: ignore[attr-defined]
        return max(config.radius, min(config.max_radius, config.radius * config.growth ** (attempt + vain)))
