"""The learning rate of gradient descent that a step of another method amounts to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridopt.optimizers.tensor_lists import inner, total


def projected_rate(step: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """Returns the rate whose gradient step has the given step as its projection (Keskar and Socher 2017, section 3).

    It is ``p.p / (-p.g)``: the step ``-rate * g``, projected on p, is p itself.

    Args:
        step: The displacement p as a list of tensors.
        gradient: The gradient g where it started, in the same shapes.

    Returns:
        0-dim tensor; infinite or NaN where p and g are orthogonal, negative where p ascends.

    Example:
        >>> float(projected_rate([torch.tensor([-1.0, 0.0])], [torch.tensor([2.0, 5.0])]))
        0.5
    """
    norms = torch._foreach_norm(list(step))
    square = total(torch._foreach_mul(norms, norms))
    return square / -inner(list(step), list(gradient))


class ProjectedRate:
    """The running mean of projected rates, and whether it has settled: the rule by which SWATS switches.

    Args:
        memory: Where it remembers, a dict in an optimizer's state.
        decay: Decay of the mean (beta2 in the paper).
        threshold: The rate has settled when the last one is this close to the corrected mean.
    """

    def __init__(self, memory: dict[str, Any], decay: float = 0.999, threshold: float = 1e-5) -> None:
        self.memory, self.decay, self.threshold = memory, decay, threshold

    def see(self, step: Sequence[Tensor], gradient: Sequence[Tensor]) -> float | None:
        """Looks at a step, which brings one number to the host.

        Args:
            step: The displacement.
            gradient: The gradient where it started.

        Returns:
            The mean rate once it has settled on a positive one, else None. A step orthogonal to the gradient counts
            as a step of the mean, as in the paper, but does not change it.
        """
        memory = self.memory
        memory["seen"] = memory.get("seen", 0) + 1
        rate = float(projected_rate(step, gradient))
        if not math.isfinite(rate):
            return None
        memory["mean"] = self.decay * memory.get("mean", 0.0) + (1 - self.decay) * rate
        corrected = memory["mean"] / (1 - self.decay ** memory["seen"])
        settled = memory["seen"] > 1 and abs(corrected - rate) < self.threshold and corrected > 0.0
        return corrected if settled else None
