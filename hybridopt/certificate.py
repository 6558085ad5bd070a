"""Whether a stationary point is a saddle: a statement with its probability of error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from hybridopt.core import HybridoptError, Keyed
from hybridopt.linalg import minimum_eigenpair
from hybridopt.objective import Objective


@dataclass(frozen=True)
class Certificate(Keyed):
    """What randomized Lanczos says about the smallest eigenvalue of the Hessian at a point.

    Fields can be read as keys.

    Attributes:
        verdict: ``second_order_stationary``, ``saddle`` or ``inconclusive``.
        lambda_min_est: Smallest Ritz value: never below the smallest eigenvalue.
        residual: ``||H v - lambda v||`` of its vector: some eigenvalue lies this close.
        eps_H: What counts as negative: eigenvalues below -eps_H.
        delta: Probability that the verdict ``second_order_stationary`` is wrong, over the random start vector. A
            ``saddle`` has a direction of negative curvature as its witness and is certain up to rounding.
        products: Hessian products used.
        degenerate: Whether the smallest eigenvalue is zero to within eps_H, so that third and higher derivatives
            decide about the point and this certificate does not.
        reason: Why the verdict is what it is, in words.
    """

    verdict: str
    lambda_min_est: float
    residual: float
    eps_H: float
    delta: float
    products: int
    degenerate: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values."""
        return dict(self.__dict__)


def certify(
    objective: Objective,
    *,
    eps_H: float,
    delta: float = 1e-3,
    max_products: int = 500,
    generator: torch.Generator | None = None,
) -> Certificate:
    """Looks for negative curvature at the point where an objective stands, whatever brought it there.

    Lanczos from a random start vector with full reorthogonalization, on the true Hessian, until the smallest
    eigenvalue is known to lie on one side of -eps_H with probability 1 - delta (never more products than the bound
    of Kuczynski and Wozniakowski 1992 asks for, unless that exceeds `max_products`).

    Args:
        objective: Stands at the point; regularization of the optimizer's groups counts if it is bound to them.
        eps_H: What counts as negative, > 0.
        delta: Tolerated probability of error.
        max_products: Most Hessian products.
        generator: Source of the start vector.

    Returns:
        The certificate. A model with kinks (ReLU, max-pooling, ...) and one without second derivatives are
        ``inconclusive``.
    """
    nothing = {"lambda_min_est": math.nan, "residual": math.nan, "eps_H": eps_H, "delta": delta}
    try:
        point = objective.at()
    except HybridoptError as error:
        return Certificate("inconclusive", **nothing, products=0, degenerate=False, reason=str(error))
    with point:
        kinks = point.kinks()
        if kinks:
            reason = f"not twice differentiable everywhere: {', '.join(kinks)}"
            return Certificate("inconclusive", **nothing, products=0, degenerate=False, reason=reason)
        space = objective.space
        search = {"delta": delta, "generator": generator, "dtype": space.dtype, "device": space.device}
        limit = min(space.n, max_products)
        try:
            hessian = point.hessian()
            pair = minimum_eigenpair(hessian, space.n, tol=eps_H / 10, threshold=-eps_H, max_products=limit, **search)
            products = pair.products
            if pair.value < -eps_H:
                # The question is answered; a second run says how negative, to three digits where that is cheap.
                closer = minimum_eigenpair(
                    hessian, space.n, tol=eps_H, rtol=1e-3, max_products=min(limit, 200), **search
                )
                products += closer.products
                # It may stop before it has found what the first run found: the lower Ritz value is the better witness.
                pair = closer if closer.value < pair.value else pair
        except HybridoptError as error:
            return Certificate("inconclusive", **nothing, products=0, degenerate=False, reason=str(error))
    if pair.vector is None or not math.isfinite(pair.value):
        return Certificate(
            "inconclusive", **nothing, products=products, degenerate=False, reason="non-finite Hessian product"
        )
    degenerate = False
    if pair.value < -eps_H:
        verdict, reason = "saddle", f"v'Hv = {pair.value:.3g} along a unit vector v"
    elif pair.lower_bound >= -eps_H or str(pair.status) == "above_threshold":
        verdict, reason = "second_order_stationary", f"no eigenvalue below -eps_H = {-eps_H:.3g}"
        degenerate = pair.value <= eps_H
        if degenerate:
            reason += "; the smallest is zero to within eps_H, so higher derivatives decide"
    else:
        verdict = "inconclusive"
        reason = f"{products} products bound the smallest eigenvalue by {pair.lower_bound:.3g} only"
    return Certificate(verdict, pair.value, pair.residual, eps_H, delta, products, degenerate, reason)
