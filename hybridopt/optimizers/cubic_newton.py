"""Newton's method with adaptive cubic regularization."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import option
from hybridopt.globalization import AdaptiveCubic, limits
from hybridopt.linalg import cubic_minimize
from hybridopt.optimizers.krylov_model import KrylovModelConfig, KrylovModelMethod, Trial


@dataclass
class CubicNewtonConfig(KrylovModelConfig):
    """Options of `CubicNewton`.

    Attributes:
        sigma: First weight of the cubic term.
        eta1: A step is accepted when actual over predicted decrease exceeds this.
        eta2: The weight falls when the ratio exceeds this.
    """

    sigma: float = option(1.0, gt=0, search=("log", 1e-3, 1e3), help="first weight of the cubic term")
    eta1: float = option(0.1, ge=0, lt=0.5, help="a step is accepted when the ratio exceeds this")
    eta2: float = option(0.9, ge=0.5, lt=1, help="the weight falls when the ratio exceeds this")


class CubicNewton(KrylovModelMethod):
    """Adaptive regularization by cubics, ARC (Cartis, Gould and Toint 2011, algorithm 2.1).

    The model ``g's + s'Hs/2 + sigma ||s||^3 / 3`` is minimised exactly in a Krylov space that grows until its gradient
    is below ``min(forcing, sqrt(||g|| / G)) ||g||``, with G the largest gradient so far. sigma doubles after a
    rejected step (ratio up to 0.1), which costs a forward pass and no product, and is halved after a very good one
    (above 0.9); while that goes on, the step with half the weight is tried on the same basis. An exact saddle is left:
    see `KrylovModelMethod`. ``lr`` multiplies the step before the ratio test.

    Report: ``inner_iterations`` (products), ``status`` of the solver, ``ratio``, ``sigma``, ``evaluations``,
    ``curvature`` (the smallest Ritz value) where it is negative.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = CubicNewtonConfig
    summary = "Newton with adaptive cubic regularization, leaves saddles (Cartis et al. 2011)"
    weight = "sigma"
    minimise = staticmethod(cubic_minimize)

    def cubic_weight(self, weight: float) -> float:
        """Returns sigma.

        Args:
            weight: sigma.
        """
        return weight

    def rule(self) -> AdaptiveCubic:
        """Returns the rule for sigma."""
        config = self.config
        least, most = limits(config.sigma, 1e-16, 1e30)
        return AdaptiveCubic(eta1=config.eta1, eta2=config.eta2, min_sigma=least, max_sigma=most)

    def next_weight(self, rule: AdaptiveCubic, trial: Trial) -> float:
        """Returns the next sigma.

        Args:
            rule: That of sigma.
            trial: The last one.
        """
        return rule.update(trial.weight, trial.ratio)

    def longer(self, rule: AdaptiveCubic, trial: Trial) -> float | None:
        """Returns a smaller sigma after a very good step that the cubic term held back.

        Args:
            rule: That of sigma.
            trial: The accepted one.
        """
        held = trial.result.multiplier * trial.result.norm**2
        if trial.ratio <= rule.eta2 or held <= 0.1 * trial.result.model_decrease:
            return None
        return rule.update(trial.weight, trial.ratio)
