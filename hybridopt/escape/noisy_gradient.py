"""Noise added to the steps while an optimizer is stalled (Ge et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.escape.along import on_sphere
from hybridopt.escape.base import Proposal
from hybridopt.escape.perturbation import Perturbation, PerturbationConfig
from hybridopt.objective import Objective

if TYPE_CHECKING:
    from hybridopt.optimizers.base import Stepping


@dataclass
class NoisyGradientConfig(PerturbationConfig):
    """Options of `NoisyGradient`.

    Attributes:
        radius: Length of the noise in each step, at the first try.
        noise_steps: Steps of the window that get noise; the rest of it settles.
    """

    radius: float = option(5e-3, gt=0, search=("log", 1e-4, 1.0), help="length of the noise in each step")
    noise_steps: int = option(10, ge=1, search=[5, 10, 20], help="steps of the window that get noise")


class NoisyGradient(Perturbation):
    """Adds isotropic noise to every step while the optimizer is stalled.

    Ge, Huang, Jin and Yuan 2015, "Escaping From Saddle Points", Algorithm 1: ``x - eta (g + n)``, n uniform on a
    sphere, in every step of stochastic gradient descent. Here the noise is added after the optimizer's own step,
    whatever that is, only from a stall on and for `noise_steps` steps, and the whole is a transaction: undone, noise
    and steps, unless the function ends lower. `radius` is the length of eta n. Costs no evaluations beside the
    verdict. The optimizer is told that it was moved after every such step.

    Args:
        config: An instance of `Config`, instead of `options`.
        **options: Fields of `Config`.
    """

    Config = NoisyGradientConfig
    summary = "noise in every step of a stall (Ge et al. 2015)"

    def propose(
        self, optimizer: Stepping | None, objective: Objective, attempt: int, random: torch.Generator
    ) -> Proposal:
        """Returns the first of the noises.

        Args:
            optimizer: The optimizer at the stall.
            objective: Bound to its parameters.
            attempt: 0 for the first try at this stall.
            random: The escape's own generator.
        """
        radius = self._radius(optimizer, attempt)
        return Proposal(on_sphere(objective.space, radius, random), radius=radius)

    def stir(
        self, optimizer: Stepping, objective: Objective, attempt: int, step: int, random: torch.Generator
    ) -> Tensor | None:
        """Returns the noise for a step of the window, as long as it gets any.

        Args:
            optimizer: The optimizer.
            objective: Bound to its parameters.
            attempt: That of the jump.
            step: Steps since the jump, from 1.
            random: The escape's own generator.
        """
        if step >= self.config.noise_steps:
            return None
        return on_sphere(objective.space, self._radius(optimizer, attempt), random)
