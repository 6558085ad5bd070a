"""Structural damping: a Gauss-Newton matrix that also resists changes of the hidden states."""

from __future__ import annotations

from torch import Tensor

from hybridopt.core import CombinationError
from hybridopt.objective import Point
from hybridopt.objective.products import PointOperator


class StructurallyDamped(PointOperator):
    """``G + w S``: the Gauss-Newton matrix and w times ``S = 1/N sum_n J_hn' J_hn``, J_h the hidden states' Jacobian.

    A step d then pays w/2 times the squared change of the hidden states to first order, summed over steps and units and
    averaged over the N sequences: what Martens and Sutskever (2011, section 3.1) add with w = mu lambda, here with the
    squared distance as its D. A small step in the parameters of a recurrent net can change its hidden states by a lot,
    and beyond what the quadratic model knows.

    The hidden states are the outputs of all layers and directions of `nn.RNN`, `nn.GRU` and `nn.LSTM` (of the last
    layer only where `hybridopt.objective.recurrent` cannot serve: packed sequences, projections), and of every call of
    their cells. A product costs what a Gauss-Newton product costs.

    Args:
        point: Where; made with ``objective.at(hidden=True)``.
        weight: w >= 0.

    Raises:
        CombinationError: If there are no hidden states, or no model outputs that a loss function is applied to.
    """

    positive_semidefinite = True

    def __init__(self, point: Point, weight: float) -> None:
        point.require_outputs()
        if not point.hidden_states:
            raise CombinationError(
                "Structural damping resists changes of the hidden states of recurrent layers, and the loss depends on "
                "none that can be seen: there is no nn.RNN, nn.GRU, nn.LSTM or cell of theirs, or only the last state "
                "of packed sequences is used (use the padded output too, or pad instead). Use structural_damping=0."
            )
        super().__init__(point)
        self.weight = weight

    def _matvec(self, vector: Tensor) -> Tensor:
        hidden = self.weight / self.point.objective.samples
        return self.point.sandwich_product(vector, self.point.loss_hessian_product, hidden=hidden)
