"""Curvature of an objective at the parameters it stands at."""

from __future__ import annotations

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from hybridopt.objective.products import GaussNewtonOperator, HessianOperator


class Hessian(HessianOperator):
    """The Hessian of an objective: symmetric, and indefinite at a saddle.

    Building it costs one gradient, whose graph is kept; a product costs about one more (Pearlmutter 1994).

    Args:
        objective: The loss as a function of the parameters.

    Raises:
        ObjectiveError: If it is not an `Objective`, or its loss is no scalar or has no graph.

    Example:
        >>> import torch
        >>> f = Objective.from_function(lambda x: x[0] ** 2 + 3 * x[0] * x[1], torch.tensor([1.0, 2.0]))
        >>> Hessian(f) @ torch.tensor([1.0, 0.0])
        tensor([2., 3.])
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(_checked(objective).at())


class GaussNewton(GaussNewtonOperator):
    """The generalized Gauss-Newton matrix J' H_L J of an objective (Schraudolph 2002).

    Positive semi-definite for a loss that is convex in the outputs; equal to the Fisher matrix for a softmax
    cross-entropy and for a squared error (Martens 2020).

    Args:
        objective: The loss as a function of the parameters.

    Raises:
        ObjectiveError: If it is not an `Objective`, or its loss is no scalar or has no graph.
        CombinationError: If it has no model outputs that a loss function is applied to.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> f = Objective(model, torch.nn.functional.mse_loss, torch.tensor([[2.0]]), torch.tensor([[0.0]]))
        >>> GaussNewton(f) @ torch.tensor([1.0])
        tensor([8.])
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(_checked(objective).at())


def _checked(objective: Objective) -> Objective:
    if not isinstance(objective, Objective):
        raise ObjectiveError(
            "A curvature operator needs an Objective(model, loss_fn, inputs, targets), not a "
            f"{type(objective).__name__}."
        )
    return objective
