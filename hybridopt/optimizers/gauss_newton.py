"""The Gauss-Newton method with a dense matrix and a line search."""

from __future__ import annotations

from dataclasses import dataclass

from hybridopt.core import option
from hybridopt.optimizers.newton import MODIFICATIONS, Newton, NewtonDenseConfig
from hybridopt.optimizers.newton_options import CURVATURES


@dataclass
class GaussNewtonConfig(NewtonDenseConfig):
    """Options of `GaussNewton`: those of `Newton`, with another matrix that often lacks rank."""

    curvature: str = option("gauss_newton", choices=CURVATURES, help="the matrix of the model")
    modification: str = option("pseudo_inverse", choices=MODIFICATIONS, help="of an indefinite or singular matrix")


class GaussNewton(Newton):
    """Gauss-Newton with a line search (Nocedal and Wright 2006, section 10.3), for a few hundred parameters.

    As `Newton`, on the generalized Gauss-Newton matrix J' H_L J of the model's outputs (Schraudolph 2002): positive
    semi-definite for a convex loss. Where it lacks rank, as on batches with fewer outputs than parameters, the step is
    that of least norm, in the units of `scaling` (``identity``: those of the parameters); it solves the batch's
    linearised equations exactly, so on small mini-batches it fits their noise. Parameters that have no part in the
    matrix, as those of a trainable loss, go along their negative gradient. It needs an objective with outputs and a
    loss function. Fast where the residuals are small at the solution; `levenberg_marquardt` is the safer choice where
    the Jacobian loses rank on the way.

    Report: As for `Newton`.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        CombinationError: If there are more parameters than `max_dimension`.
    """

    Config = GaussNewtonConfig
    summary = "Gauss-Newton with the dense matrix, line search (small n, model outputs)"
