"""`step(objective)` around the step of a torch optimizer class."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.optimizers.base import Stepping
from hybridopt.optimizers.report import Report, norm


class TorchStep(Stepping):
    """Mixin that makes a subclass of a torch optimizer step on an objective.

    The gradient is taken through the model's own forward pass and handed to torch's own kernels; nothing is packed,
    copied or brought to the host, so a step costs what it costs in bare torch.
    """

    torch_class: ClassVar[type[torch.optim.Optimizer]]
    takes_sparse: ClassVar[bool] = False
    """Whether sparse gradients, as of ``nn.Embedding(sparse=True)``, are left as they are."""

    @in_forward_only
    def step(self, objective: Objective | None = None) -> Tensor:
        """Does one step on the objective.

        Afterwards ``p.grad`` is the gradient that was used (clipped, if clipping is on), and `report` tells what
        happened.

        Args:
            objective: The loss as a function of the parameters.

        Returns:
            The loss at the step's starting point, a detached scalar tensor.

        Raises:
            ObjectiveError: If it is not an `Objective`, or cannot be evaluated.
        """
        if type(objective) is not Objective:
            self._check_objective(objective)
        parameters = self._trainable()
        self._follow(parameters)
        self.report = Report()
        loss = self._descend(objective, parameters)
        # Fused kernels write behind autograd's back; operators built before must notice.
        torch.autograd.graph.increment_version(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.report.complete(loss=loss, grad_norm=lambda: norm(gradients))
        if self.escape is not None:
            bound = objective.bind(self.param_groups, regularize=self.coupled_decay)  # type: ignore[attr-defined]
            bound.renew()
            bound.start_loss = loss
            self.escape.after_step(self, bound)
        return loss

    def _descend(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        loss = self._differentiate(objective, parameters)
        self._torch_step()
        return loss

    def _differentiate(self, objective: Objective, parameters: list[Tensor]) -> Tensor:
        loss, gradients = objective.loss_and_gradients(parameters)
        if gradients[0] is None and all(gradient is None for gradient in gradients):
            # None of them was used, perhaps because they are another model's: binding says so.
            objective.bind(self.param_groups)  # type: ignore[attr-defined]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None and gradient.is_sparse and not self.takes_sparse:
                gradient = gradient.to_dense()
            parameter.grad = gradient
        self._clip(parameters)
        return loss

    def _clip(self, parameters: list[Tensor]) -> None:
        """Bounds the gradients, where the optimizer offers it."""

    def _trainable(self) -> list[Tensor]:
        parameters: list[Tensor] = []
        for group in self.param_groups:  # type: ignore[attr-defined]
            for parameter in group["params"]:
                if parameter.requires_grad:
                    parameters.append(parameter)
                elif parameter.grad is not None:
                    # Frozen since its last step; torch would go on with the gradient of then.
                    parameter.grad = None
        if not parameters:
            from hybridopt.objective import ParameterSpace

            ParameterSpace(parameters)
        return parameters

    def _torch_step(self, *arguments: Any) -> None:
        """Runs the step of torch's class, without the hooks: our own step has fired them."""
        step, sets_mode = _plain(self.torch_class.step)
        if not sets_mode:
            step(self, *arguments)
            return
        # What `torch.set_grad_enabled` does, whose three Python calls are a tenth of what a step costs beside torch.
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self.defaults["differentiable"])  # type: ignore[attr-defined]
        try:
            step(self, *arguments)
        finally:
            torch._C._set_grad_enabled(before)


@functools.cache
def _plain(step: Any) -> tuple[Callable[..., Any], bool]:
    """Returns what is inside torch's wrappers around a step, and whether it wants the gradient mode to be set.

    Args:
        step: Of a torch class, as found there.
    """
    # An instance of the bare torch class anywhere in the process makes torch wrap its step with the hooks; ours
    # is wrapped already, so calling through theirs would fire every hook twice.
    step = step.__wrapped__ if getattr(step, "hooked", False) else step
    code = getattr(step, "__code__", None)
    if code is None or code.co_name != "_use_grad" or step.__globals__["__name__"] != "torch.optim.optimizer":
        return step, False
    # Torch's wrapper imports its compiler, which takes a second, only to tell it where the gradient mode changes.
    # What steps on an objective is never compiled, so the mode is all that is left of it.
    return step.__wrapped__, True
