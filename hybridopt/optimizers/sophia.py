"""Sophia: sign-like steps, shortened where the diagonal curvature is large."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import option
from hybridopt.curvature.likelihood import likelihood_at
from hybridopt.objective import Objective
from hybridopt.objective.point import Point
from hybridopt.optimizers.adamw_part import check_betas
from hybridopt.optimizers.diagonal_step import DiagonalConfig, DiagonalStep
from hybridopt.optimizers.direct_step import decay


@dataclass
class SophiaConfig(DiagonalConfig):
    """Options of `Sophia`.

    Attributes:
        estimator: ``hutchinson`` (Sophia-H) or ``gauss_newton_bartlett`` (Sophia-G).
        betas: Decay of the mean gradient and of the mean diagonal.
        gamma: Factor on the diagonal: larger values make shorter steps, and fewer entries that are clipped. The authors
            take 0.01 for Sophia-H and 0.05 for Sophia-G.
        clip: Largest entry of a step for a learning rate of one.
        eps: Smallest denominator.
    """

    lr: float = option(1e-3, ge=0, search=("log", 1e-5, 1e-1), help="learning rate")
    weight_decay: float = option(0.1, ge=0, search=("log", 1e-4, 1.0), help="decoupled weight decay")
    every: int = option(10, ge=1, search=[1, 5, 10, 20], help="steps from one estimate to the next")
    estimator: str = option("hutchinson", choices=["hutchinson", "gauss_newton_bartlett"], help="Sophia-H or Sophia-G")
    betas: list[float] = option([0.96, 0.99], help="decay of the mean gradient and of the mean diagonal")
    gamma: float = option(0.01, gt=0, search=("log", 1e-3, 1.0), help="factor on the diagonal")
    clip: float = option(1.0, gt=0, help="largest entry of a step for a learning rate of one")
    eps: float = option(1e-12, gt=0, help="smallest denominator")
    probes: str = option("gaussian", choices=["rademacher", "gaussian"], help="probes of Sophia-H")


class Sophia(DiagonalStep):
    """Sophia (Liu et al. 2024, Algorithm 3).

    Every `every` steps a mean h of estimates of the Hessian's diagonal takes in a new one; a step is the mean gradient
    m as ``clip(m / max(gamma h, eps), 1)``, which where h is small or negative is the sign of m. ``hutchinson`` takes
    z * H z for Gaussian z (one Hessian product each). ``gauss_newton_bartlett`` draws targets from the model's own
    distribution and squares the gradient for them: the diagonal of the Gauss-Newton matrix in expectation, for one
    more backward pass, counted as a gradient; it needs a loss that stands for a likelihood (softmax cross-entropy,
    squared error, binary cross-entropy with logits). Neither mean is corrected for its start at zero, as in the paper.
    Weight decay is decoupled.

    Report: ``refreshed`` (whether the diagonal was estimated in this step), and then ``clipped`` (share of entries
    clipped; 0.5 to 0.9 is what the authors tune `gamma` for).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = SophiaConfig
    summary = "momentum over the diagonal curvature, clipped (Liu et al. 2024)"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        super().__init__(params, config, escape=escape, **options)
        check_betas(self.config.betas, owner="Sophia.betas")

    def diagonal(self, point: Point, generator: torch.Generator) -> Tensor:
        """Returns an estimate of the diagonal of the Hessian or of the Gauss-Newton matrix.

        Args:
            point: Where.
            generator: Where probes or targets come from; its state is kept.

        Returns:
            Shape (n,).

        Raises:
            CombinationError: If targets are to be drawn, and the loss stands for no likelihood.
        """
        if self.config.estimator == "hutchinson":
            return super().diagonal(point, generator)
        likelihood = likelihood_at(point)
        total = 0.0
        for _ in range(self.config.samples):
            total = total + point.pull_back(likelihood.sample(generator)).square()
        self.memory["random"] = generator.get_state()
        return total / self.config.samples

    def move(self, objective: Objective) -> None:
        """Steps along the clipped quotient.

        Args:
            objective: The objective of the step.
        """
        config = self.config
        beta1, beta2 = config.betas
        taken: list[Tensor] = []
        for group in self.param_groups:
            active = self._active(group)
            if not active:
                continue
            states = [self._state_of(parameter) for parameter in active]
            means, curvatures = [s["mean"] for s in states], [s["curvature"] for s in states]
            torch._foreach_lerp_(means, [p.grad for p in active], weight=1.0 - beta1)
            diagonals = self.estimates(active)
            if diagonals is not None:
                torch._foreach_lerp_(curvatures, diagonals, weight=1.0 - beta2)
            decay(active, group["lr"] * group["weight_decay"])
            denominators = torch._foreach_mul(curvatures, config.gamma)
            torch._foreach_clamp_min_(denominators, config.eps)
            steps = torch._foreach_div(means, denominators)
            torch._foreach_clamp_min_(steps, -config.clip)
            torch._foreach_clamp_max_(steps, config.clip)
            torch._foreach_add_(active, steps, alpha=-float(group["lr"]))
            taken += steps
        if self._estimates is not None:
            # Counting takes a pass over the parameters; once an estimate is enough to set gamma by.
            self.note(clipped=clipped_share(taken, config.clip))
        self.finish()

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if "mean" not in state:
            state.update(mean=torch.zeros_like(parameter), curvature=torch.zeros_like(parameter))
        return state


def clipped_share(steps: list[Tensor], limit: float) -> Tensor:
    """Returns the share of entries that lie at a limit, as a 0-dim tensor.

    Args:
        steps: Any shapes.
        limit: Of the absolute value.
    """
    total = sum(step.numel() for step in steps)
    return torch.stack([(step.abs() >= limit).sum() for step in steps]).sum() / total
