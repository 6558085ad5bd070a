"""The diagonal of a curvature matrix of an objective."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from hybridopt.curvature.empirical_fisher import EmpiricalFisherOperator, data_gradients
from hybridopt.curvature.fisher import FisherOperator
from hybridopt.curvature.likelihood import likelihood_at, output_hessian_root, own_part
from hybridopt.curvature.squares import couples_data, squared_gradients
from hybridopt.linalg import composite
from hybridopt.linalg.operator import SymmetricOperator
from hybridopt.objective import Objective, Point

OF = ("hessian", "gauss_newton", "fisher", "empirical_fisher")
METHODS = ("exact", "monte_carlo", "hutchinson", "xdiag")


class Diagonal(composite.Diagonal):
    """The diagonal of a curvature matrix of an objective, as an operator with an inverse.

    ``exact``: of the Hessian by n products. Of the Gauss-Newton and Fisher matrices ``sum_k sum_n (J_n' u_kn)^2`` with
    the columns u_k of a square root of the loss's Hessian in the outputs, one gradient for each of the d output
    elements of a datum, where that is cheaper than n products. Of the empirical Fisher matrix one gradient. The
    parameters for which `squared_gradients` has no formula take a product each.

    ``monte_carlo``: of the Fisher matrix from targets drawn from the model, one gradient for each of `samples`; the
    Gauss-Newton-Bartlett estimator (Liu et al. 2023, with exact squares). ``hutchinson`` and ``xdiag``: of any of them
    from `samples` products; see `SymmetricOperator.diagonal`. All are unbiased.

    Args:
        objective: The loss as a function of the parameters.
        of: ``"hessian"``, ``"gauss_newton"``, ``"fisher"`` or ``"empirical_fisher"``.
        method: ``"exact"``, ``"monte_carlo"``, ``"hutchinson"`` or ``"xdiag"``.
        samples: For all but ``"exact"``.
        generator: Where random numbers come from; one seeded with 0 when None.

    Attributes:
        values: The diagonal, shape (n,).

    Raises:
        ConfigError: If an option is unknown or out of range.
        CombinationError: If the objective has no such matrix, or the method does not serve it.
        ObjectiveError: If it is not an `Objective`.

    Example:
        >>> f = Objective.from_function(lambda x: (torch.tensor([1.0, 3.0]) * x**2).sum(), torch.ones(2))
        >>> Diagonal(f, of="hessian").values
        tensor([2., 6.])
    """

    def __init__(
        self,
        objective: Objective,
        of: str = "gauss_newton",
        *,
        method: str = "exact",
        samples: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise ObjectiveError(f"Diagonal needs an Objective, not a {type(objective).__name__}.")
        with objective.at() as point:
            super().__init__(diagonal_at(point, of, method=method, samples=samples, generator=generator))


def diagonal_at(
    point: Point,
    of: str,
    *,
    method: str = "exact",
    samples: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Returns the diagonal of a curvature matrix at a point; see `Diagonal`.

    Args:
        point: Where.
        of: ``"hessian"``, ``"gauss_newton"``, ``"fisher"`` or ``"empirical_fisher"``.
        method: ``"exact"``, ``"monte_carlo"``, ``"hutchinson"`` or ``"xdiag"``.
        samples: For all but ``"exact"``.
        generator: Where random numbers come from; one seeded with 0 when None.

    Returns:
        Shape (n,), with the regularization's part.

    Raises:
        ConfigError: If an option is unknown or out of range.
        CombinationError: If the objective has no such matrix, or the method does not serve it.
    """
    for name, value, choices in (("of", of, OF), ("method", method, METHODS)):
        if value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if samples < 1:
        raise ConfigError(f"samples must be at least 1, not {samples}.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if method == "monte_carlo":
        if of not in ("fisher", "gauss_newton"):
            raise CombinationError(f"Targets are drawn for the Fisher matrix; for the {of} use method='hutchinson'.")
        if couples_data(point):
            raise CombinationError(
                "BatchNorm in train mode couples the data, so squares of single gradients say nothing: use "
                "method='hutchinson', or eval mode."
            )
        likelihood = likelihood_at(point)
        draws = [[part / samples**0.5 for part in likelihood.sample(generator)] for _ in range(samples)]
        return _regularized(point, squared_gradients(point, draws, generator=generator)[0])
    if method != "exact" or of == "hessian":
        operator = _operator(point, of)
        return (
            operator.diagonal() if method == "exact" else operator.diagonal(samples, method=method, generator=generator)
        )
    columns = _columns(point, of)
    if columns is None:
        return _operator(point, of).diagonal()
    values, estimated = squared_gradients(point, columns, draws=0)
    values = _regularized(point, values)
    if estimated:
        _fill(values, _operator(point, of), point, estimated)
    return values


def _operator(point: Point, of: str) -> SymmetricOperator:
    if of == "hessian":
        return point.hessian()
    if of == "empirical_fisher":
        return EmpiricalFisherOperator(point)
    return FisherOperator(point) if of == "fisher" else point.gauss_newton()


def _columns(point: Point, of: str) -> list[list[Tensor]] | None:
    """Columns whose squared gradients add up to the diagonal; None where n products are needed, or fewer."""
    if of == "fisher":
        likelihood_at(point)
    if not point.keeps_graph or couples_data(point):
        return None
    if of == "empirical_fisher":
        return [data_gradients(point)[1]]
    point.require_outputs()
    try:
        if sum(output.numel() for output in point.outputs) > 1.3 * point.space.n * own_part(point)[1].objective.samples:
            return None
        try:
            return list(likelihood_at(point).square_root())
        except CombinationError:
            return list(output_hessian_root(point))
    except CombinationError:
        return None


def _fill(values: Tensor, operator: SymmetricOperator, point: Point, positions: list[int]) -> None:
    """Writes the exact entries of some parameters, by a product each."""
    offsets = torch.arange(point.space.n, device=values.device)
    views = point.space.views(offsets)
    for position in positions:
        for index in views[position].flatten().tolist():
            unit = torch.zeros_like(values)
            unit[index] = 1
            values[index] = (operator @ unit)[index]


def _regularized(point: Point, values: Tensor) -> Tensor:
    return point.objective.add_decay_product(values, torch.ones_like(values))
