"""Base of the first-order methods that are written here, over lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from hybridopt.optimizers.first_order_base import FirstOrder
from hybridopt.optimizers.tensor_lists import holding

Group = dict[str, Any]
"""A param group: ``params`` and the options that may differ between groups."""


class MultiTensor(FirstOrder, torch.optim.Optimizer):
    """A first-order method as one function of lists of tensors.

    A subclass writes `move`. The gradient comes from the model's own forward pass; every operation is one call for a
    whole list of tensors (``torch._foreach_*``), and nothing is brought to the host unless the method says so.
    """

    torch_class = torch.optim.Optimizer
    state_elementwise = False

    def _construct(self, params: Iterable[Any], arguments: dict[str, Any]) -> None:
        torch.optim.Optimizer.__init__(self, params, arguments)

    def _descend(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        if "evaluating" in self.__dict__:
            raise ObjectiveError(
                f"{type(self).__name__} cannot step inside `with optimizer.evaluation()`: the model holds other "
                "parameters there. Leave the context first."
            )
        loss = self._differentiate(objective, parameters)
        with torch.no_grad():
            self.move(loss)
        return loss

    def move(self, loss: Tensor) -> None:
        """Moves the parameters along ``p.grad``; called without recording of graphs.

        Args:
            loss: Where the step starts, a detached scalar.

        Raises:
            TypeError: If a subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how it moves: define move(self, loss).")

    def present(self) -> Iterator[tuple[int, Group, list[Tensor], list[Tensor]]]:
        """Yields index, group, parameters and gradients of each group with a gradient.

        A gradient that torch left in another dtype or layout than its parameter's is taken as it is.
        """
        for index, group in enumerate(self.param_groups):
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                yield index, group, parameters, [p.grad for p in parameters]  # type: ignore[misc]

    def buffers(self, parameters: list[Tensor], *names: str) -> tuple[list[Tensor], ...]:
        """Returns lists of per-parameter state, zeros where there is none yet.

        Args:
            parameters: Whose state.
            *names: What state.
        """
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            for name in names:
                if name not in state:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return tuple([state[name] for state in states] for name in names)

    def copies(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        """Returns a list of per-parameter state that begins as a copy of the parameter.

        Args:
            parameters: Whose state.
            name: What state.
        """
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if name not in state:
                state[name] = parameter.clone()
        return [state[name] for state in states]

    # -- averages ----------------------------------------------------------------------------------------------------

    @property
    def averaging(self) -> bool:
        """Whether `evaluation` shows other parameters than those trained."""
        return False

    def averages(self) -> list[tuple[Tensor, Tensor]]:
        """Returns parameters and what the model should hold instead when it is evaluated; none by default."""
        return []

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context in which the model holds the parameters to evaluate.

        BatchNorm's running statistics are those of the training parameters; where they matter, renew them inside the
        context by forward passes in training mode (e.g. `torch.optim.swa_utils.update_bn`).
        """
        if "evaluating" in self.__dict__:
            yield
            return
        with torch.no_grad():
            pairs = self.averages()
        self.evaluating = True
        try:
            with holding([parameter for parameter, _ in pairs], [value for _, value in pairs]):
                yield
        finally:
            del self.evaluating
