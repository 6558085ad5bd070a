"""A model with its loss: what all objectives of one model have in common, whatever the batch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from hybridopt.core import ObjectiveError
from hybridopt.objective import autocast
from hybridopt.objective.ledger import Ledger
from hybridopt.objective.parameters import ParameterSpace, Slots
from hybridopt.objective.point import CHECKPOINTED, COMPILED_AHEAD, flatten_outputs, separate_outputs
from hybridopt.objective.smoothness import differentiable_once, runs_again_in_backward

_TWICE = "backward through the graph a second time"


class Problem:
    """A model, its loss, the ledger, and the flat vectors over the model's parameters that have been asked for.

    Args:
        model: The module.
        loss_fn: What is applied to its outputs, or None when it returns the loss.
        ledger: Where costs are entered.
        work: What a call on a batch is charged, from its inputs and targets; None: its number of samples.

    Raises:
        ObjectiveError: If the model is one of several replicas.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor] | None,
        ledger: Ledger,
        work: Callable[[Any, Any], int] | None = None,
    ) -> None:
        _refuse_replicas(model)
        self.model = model
        self.loss_fn = loss_fn
        self.ledger = ledger
        self.work = work
        self.modules = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
        self._bindings: dict[tuple[int, ...], tuple[ParameterSpace, Slots]] = {}
        # Random, so that a key saved in a checkpoint never meets another process's batch by chance.
        self._token = uuid.uuid4().hex[:12]
        self._batches = 0
        self.autocast: autocast.Regions = ()
        self.differentiates = False
        """Whether the forward pass takes derivatives itself, as of coordinates or energies, so that it cannot run
        under `torch.no_grad`."""
        self._smooth = False
        self.looked = False
        """Whether `check_checkpoints` has been asked."""
        self.uncompiled = False
        """Whether curvature was asked for, so that evaluations run compiled code as plain torch: that has second
        derivatives, and all of a step has to draw the same random numbers."""

    def check_checkpoints(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Refuses reentrant checkpointing whose parameters got no gradient; for the first evaluation.

        Args:
            loss: With its graph.
            gradients: Of the loss.

        Raises:
            ObjectiveError: If there is such a part.
        """
        if any(gradient is None for gradient in gradients) and runs_again_in_backward(loss):
            raise ObjectiveError(CHECKPOINTED)
        self.looked = True

    def binding(self, parameters: Sequence[Tensor]) -> tuple[ParameterSpace, Slots]:
        """Returns parameters as a flat vector, and their slots in the model; the same ones when asked again.

        Args:
            parameters: In the order of the flat vector.

        Raises:
            ObjectiveError: If there is none, or one does not belong to the model.
        """
        key = tuple(map(id, parameters))
        if key not in self._bindings or self._bindings[key][0].converted():
            space = ParameterSpace(parameters)
            self._bindings[key] = space, Slots(self.modules, space.parameters)
        return self._bindings[key]

    def trainable(self) -> list[Tensor]:
        """Returns the parameters that require a gradient, of the model and then of the loss."""
        return [p for module in self.modules for p in module.parameters() if p.requires_grad]

    def require_second_derivatives(self, gradients: Iterable[Tensor]) -> None:
        """Checks, at the first product only, that no function of the model is differentiable once.

        Args:
            gradients: Of the parameters, with their graphs.

        Raises:
            ObjectiveError: If there is one: torch would leave its part out of all products without a word.
        """
        if not self._smooth and differentiable_once(gradients):
            raise ObjectiveError(
                "A function of the model is marked as once_differentiable, so products with curvature matrices would "
                "miss its part. Write its backward in differentiable operations and take the mark off, or use an "
                "optimizer that needs gradients only."
            )
        self._smooth = True

    def new_key(self) -> str:
        """Returns a name for a batch that no other batch has."""
        self._batches += 1
        return f"{self._token}-{self._batches}"

    def forward(self, inputs: Any, targets: Any, *, separate: bool = False) -> tuple[Tensor, Any]:
        """Returns the loss and the model's outputs: the model's own forward pass, with nothing around it.

        Autocast that the user has put around a step is on here.

        Args:
            inputs: A tensor; a tuple or list of positional arguments; a dict of keyword arguments; None for none.
            targets: Second argument of the loss, or None.
            separate: Whether the loss sees every output through a view of its own.

        Raises:
            ObjectiveError: If the loss is not a scalar.
        """
        if self.autocast or autocast.is_on():
            with autocast.entered(self.autocast or autocast.regions()):
                return self._forward(inputs, targets, separate)
        return self._forward(inputs, targets, separate)

    def _forward(self, inputs: Any, targets: Any, separate: bool) -> tuple[Tensor, Any]:
        if inputs is None:
            outputs = self.model()
        elif isinstance(inputs, tuple | list) and not isinstance(inputs, PackedSequence):
            outputs = self.model(*inputs)
        elif isinstance(inputs, dict):
            outputs = self.model(**inputs)
        else:
            outputs = self.model(inputs)
        if separate and self.loss_fn is not None:
            outputs = separate_outputs(outputs)
        if self.loss_fn is None:
            loss = outputs
        elif targets is None:
            loss = self.loss_fn(outputs)
        else:
            loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0 or loss.is_complex():
            loss = _as_scalar(loss)
        return loss, outputs


def _refuse_replicas(model: nn.Module) -> None:
    """Refuses DistributedDataParallel over several processes, whose replicas would silently drift apart.

    Its hooks average gradients in ``backward()`` only; here they are taken by ``torch.autograd.grad``.

    Args:
        model: The module.

    Raises:
        ObjectiveError: If it is one of several replicas.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel) and model.process_group.size() > 1:
        raise ObjectiveError(
            "DistributedDataParallel averages gradients in backward() only, which optimizers here do not call, so the "
            "replicas would drift apart. Give every process the model itself (model.module) and its part of the batch: "
            "hybridopt.Objective(model.module, loss_fn, inputs, targets).in_data_parallel()."
        )


def differentiate(loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor | None, ...]:
    """Returns the derivatives of a loss, with torch's complaints in the user's terms.

    Args:
        loss: Scalar.
        inputs: With respect to what.
        create_graph: Whether the result is to be differentiated again.

    Raises:
        ObjectiveError: If the loss has no graph, or its graph was used up.
        RuntimeError: Anything else that torch complains about.
    """
    if not loss.requires_grad:
        raise ObjectiveError(
            "The loss has no graph: it does not depend on any parameter that requires a gradient. Do not detach "
            "it, do not use .item() or torch.no_grad() in the model or the loss, and check requires_grad."
            + (" Nor can anything be differentiated in torch.inference_mode()." * torch.is_inference_mode_enabled())
        )
    try:
        return torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        if _TWICE in str(error):
            raise ObjectiveError(
                "The graph of the loss was used up already: the model or the loss function called backward() "
                "itself. Return the loss and leave differentiation to the optimizer."
            ) from error
        if "torch.utils.checkpoint" in str(error):
            raise ObjectiveError(CHECKPOINTED) from error
        if "donated buffers" in str(error):
            raise ObjectiveError(COMPILED_AHEAD) from error
        if "does not require grad" in str(error):
            raise ObjectiveError(
                "A parameter was frozen after the objective had been used. Make a new Objective, or pass the "
                "parameters through an optimizer's groups, which are looked at in every step."
            ) from error
        if "not implemented" in str(error):
            raise ObjectiveError(
                f"A layer of the model cannot be differentiated as needed here: {str(error).splitlines()[0]}"
            ) from error
        raise


def count_samples(inputs: Any, targets: Any) -> int:
    """Returns the leading dimension of the first tensor found in the targets, then the inputs; 1 without any.

    Args:
        inputs: The batch.
        targets: What the loss compares with.
    """
    if isinstance(targets, Tensor) and targets.dim() > 0:
        return targets.shape[0]
    for data in (targets, inputs):
        for tensor in flatten_outputs(data, differentiable=False):
            if tensor.dim() > 0:
                return tensor.shape[0]
    return 1


def _as_scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise ObjectiveError(
            f"The loss must be a scalar tensor, not {type(loss).__name__}"
            + (" (a number has no graph)" if isinstance(loss, int | float) else "")
            + ". Return it from the loss function as it comes out of torch, without .item()."
        )
    if loss.is_complex():
        raise ObjectiveError(f"The loss must be real, not {loss.dtype}. Return its .real, or .abs().")
    if loss.numel() != 1:
        raise ObjectiveError(
            f"The loss must be a scalar, but has shape {tuple(loss.shape)}. Reduce it, e.g. with .mean() or "
            "reduction='mean'."
        )
    return loss.reshape(())
