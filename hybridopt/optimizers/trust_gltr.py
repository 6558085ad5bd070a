"""Newton's method in a trust region, the subproblem solved by generalized Lanczos."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import option
from hybridopt.globalization import TrustRegion, check_radius, limits
from hybridopt.linalg import gltr
from hybridopt.optimizers.krylov_model import KrylovModelConfig, KrylovModelMethod, Trial
from hybridopt.optimizers.trust_newton_cg import SHRINK


@dataclass
class TrustGLTRConfig(KrylovModelConfig):
    """Options of `TrustGLTR`.

    Attributes:
        radius: First trust radius.
        max_radius: Largest one.
        eta: A step is accepted when actual over predicted decrease exceeds this.
        shrink: Factor of the radius after a step of ratio below 1/4; None for 0.6, as of `TrustNewtonCG`.
    """

    radius: float = option(1.0, gt=0, search=("log", 1e-2, 10.0), help="first trust radius")
    max_radius: float = option(1e10, gt=0, help="largest trust radius")
    eta: float = option(1e-4, ge=0, lt=0.25, help="a step is accepted when the ratio exceeds this")
    shrink: float | None = option(None, gt=0, lt=1, help="factor of the radius after a bad step; null: 0.6")

    def validate(self, owner: str) -> None:
        """Refuses a first radius beyond the largest one.

        Args:
            owner: Whose options, for the message.
        """
        check_radius(self.radius, self.max_radius, owner)


class TrustGLTR(KrylovModelMethod):
    """Trust-region Newton with GLTR (Gould, Lucidi, Roma and Toint 1999).

    The model with the Hessian, indefinite as it may be, is minimised in a ball, exactly in a Krylov space that grows
    until the residual is below ``min(forcing, sqrt(||g|| / G))``, with G the largest gradient so far. A rejected step
    costs a forward pass and no product, as the basis is kept; while a step on the boundary is very good (ratio above
    0.9), twice the radius is tried on the same basis. An exact saddle is left: see `KrylovModelMethod`. ``lr``
    multiplies the step before the ratio test.

    Report: ``inner_iterations`` (products), ``status`` of the solver, ``ratio``, ``radius``, ``evaluations``,
    ``curvature`` (the smallest Ritz value) where it is negative.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = TrustGLTRConfig
    summary = "trust-region Newton, generalized Lanczos, leaves saddles (Gould et al. 1999)"
    weight = "radius"
    minimise = staticmethod(gltr)

    def rule(self) -> TrustRegion:
        """Returns the trust region's rule."""
        config = self.config
        shrink = config.shrink or SHRINK
        least, _ = limits(config.radius, 1e-16, config.max_radius)
        return TrustRegion(eta1=config.eta, shrink=shrink, min_radius=least, max_radius=config.max_radius)

    def next_weight(self, rule: TrustRegion, trial: Trial) -> float:
        """Returns the next radius.

        Args:
            rule: The trust region's.
            trial: The last one.
        """
        return rule.update(trial.weight, trial.ratio, trial.step_norm, trial.result.at_boundary)

    def longer(self, rule: TrustRegion, trial: Trial) -> float | None:
        """Returns twice the radius after a very good step on the boundary.

        Args:
            rule: The trust region's.
            trial: The accepted one.
        """
        if not trial.result.at_boundary or trial.ratio <= 0.9 or trial.weight >= rule.max_radius:
            return None
        return min(rule.grow * trial.weight, rule.max_radius)
