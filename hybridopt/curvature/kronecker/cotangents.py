"""What is sent back from a model's outputs, so that its outer products are the Fisher matrix of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError
from hybridopt.curvature.empirical_fisher import data_gradients
from hybridopt.curvature.likelihood import (
    Likelihood,
    likelihood_at,
    output_hessian_root,
    own_part,
    sample_dimension,
)
from hybridopt.objective import Point
from hybridopt.objective.share import draw_rows

KINDS = ("monte_carlo", "exact", "propagation", "empirical", "auto")


def cotangents(point: Point, kind: str, samples: int, generator: torch.Generator) -> list[list[Tensor]]:
    """Returns cotangents of the outputs, of which the sum of outer products is the outputs' Fisher matrix.

    Args:
        point: Where.
        kind: ``monte_carlo``: gradients at targets drawn from the model's own distribution; in expectation.
            ``exact``: as many columns as a datum has outputs; any loss that is convex in the outputs will do, and gives
            the Gauss-Newton matrix. ``propagation``: random signs times those columns, one backward pass for
            each of `samples` (Martens, Sutskever and Swersky 2012); in expectation, for any convex loss. ``empirical``:
            the gradient of every datum at its actual targets, as in `EmpiricalFisher`. ``auto``: ``monte_carlo`` where
            the loss stands for a known distribution, else ``propagation``.
        samples: How many, for ``monte_carlo`` and ``propagation``.
        generator: Where random numbers come from.

    Returns:
        One list per backward pass, with one tensor per output (see `Point.outputs`).

    Raises:
        CombinationError: If the loss is linear in the outputs, or stands for no distribution that `kind` needs.
        ConfigError: If `kind` is unknown.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    if not point.outputs:
        raise CombinationError(
            "The loss is linear in the model's outputs (or does not depend on them), so its Fisher matrix as seen from "
            "there is zero, and K-FAC with it. Let the model return logits and use cross_entropy, or train with "
            "lbfgs, newton_cg or a first-order method."
        )
    if kind == "empirical":
        return [data_gradients(point)[1]]
    likelihood = _likelihood(point, kind)
    if kind == "monte_carlo" or (kind == "auto" and likelihood is not None):
        assert likelihood is not None
        drawn = [likelihood.sample(generator) for _ in range(samples)]
        return [[part / samples**0.5 for part in parts] for parts in drawn]
    columns = output_hessian_root(point) if likelihood is None else likelihood.square_root()
    if kind == "exact":
        # The signs leave the outer products of a datum alone and make those of two data vanish on average.
        return [signed(point, column, generator) for column in columns]
    sums = [[torch.zeros_like(z) for z in point.outputs] for _ in range(samples)]
    for column in columns:
        for total in sums:
            for part, more in zip(total, signed(point, column, generator), strict=True):
                part.add_(more, alpha=samples**-0.5)
    return sums


def _likelihood(point: Point, kind: str) -> Likelihood | None:
    try:
        return likelihood_at(point)
    except CombinationError as error:
        if kind in ("exact", "propagation", "auto"):
            return None
        raise CombinationError(
            f"{error} For K-FAC of such a loss choose the kind 'propagation' (one backward pass) or 'exact' (option "
            "fisher of the optimizers), which take the loss's own Hessian in the outputs."
        ) from error


def signed(point: Point, column: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Multiplies the part of every datum by a random sign, the same in all outputs.

    Args:
        point: Where.
        column: One tensor per output (see `Point.outputs`).
        generator: Where the signs come from.
    """
    objective = own_part(point)[1].objective
    samples = objective.samples
    bits = draw_rows(
        lambda count: torch.randint(0, 2, (count,), generator=generator, device="cpu"), (samples,), objective.share
    )
    signs = bits.mul(2).sub(1)
    result = []
    for part in column:
        shape = [1] * part.dim()
        shape[sample_dimension(part, samples)] = samples
        result.append(part * signs.to(part).reshape(shape))
    return result
