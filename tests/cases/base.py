"""What a case of the catalogue is, and the pieces that cases are made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map

SEED = 3


@dataclass
class Problem:
    """A model, its loss and a batch; `loss_fn` is None when the model returns the loss."""

    model: nn.Module
    loss_fn: Callable[..., Tensor] | None
    inputs: Any
    targets: Any

    def outputs(self) -> Any:
        """Runs the model on the batch, in plain torch."""
        if self.inputs is None:
            return self.model()
        if isinstance(self.inputs, dict):
            return self.model(**self.inputs)
        if isinstance(self.inputs, tuple | list) and not isinstance(self.inputs, PackedSequence):
            return self.model(*self.inputs)
        return self.model(self.inputs)

    def loss_of(self, outputs: Any) -> Tensor:
        """Returns the loss of the model's outputs, in plain torch."""
        if self.loss_fn is None:
            return outputs
        return self.loss_fn(outputs) if self.targets is None else self.loss_fn(outputs, self.targets)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, of the model and then of the loss, each once."""
        modules = [self.model, self.loss_fn] if isinstance(self.loss_fn, nn.Module) else [self.model]
        found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return list(found.values())


@dataclass(frozen=True)
class Case:
    """One entry of the catalogue.

    Attributes:
        name: Its id in parametrized tests.
        make: Builds model, loss, inputs and targets in float32.
        random: Whether the forward pass draws random numbers.
        buffers: Whether the forward pass changes buffers.
        written_out: The same model with the same parameters in the same order, in operations whose second derivative
            torch gets right, where the model itself uses one that it gets wrong (weight normalization).
        mixed: Whether the dtypes of the parameters differ and are left alone.
        loss_fn: Whether the model's outputs go through a loss function, so that a Gauss-Newton matrix exists.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Any, Any, Any]]
    random: bool = False
    buffers: bool = False
    written_out: Callable[[], tuple[nn.Module, Any, Any, Any]] | None = None
    mixed: bool = False
    loss_fn: bool = True

    def build(self, dtype: torch.dtype = torch.float32, *, written_out: bool = False) -> Problem:
        """Builds the problem; the values are the same for every dtype.

        Args:
            dtype: Of the parameters and the data.
            written_out: Whether to build the form for references.
        """
        make = self.written_out if written_out and self.written_out is not None else self.make
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old weight_norm is one of the cases
            torch.manual_seed(SEED)
            model, loss_fn, inputs, targets = make()
        if dtype == torch.float64 or not self.mixed:
            model = model.to(dtype)
            loss_fn = loss_fn.to(dtype) if isinstance(loss_fn, nn.Module) else loss_fn
        return Problem(model, loss_fn, _cast(inputs, dtype), _cast(targets, dtype))


def _cast(data: Any, dtype: torch.dtype) -> Any:
    if isinstance(data, PackedSequence):
        return data.to(dtype)
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, data)


class Apply(nn.Module):
    """A module from named submodules and a forward function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._forward(self, *inputs, **named)


def features(rows: int = 6, columns: int = 3, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, columns), torch.randint(0, classes, (rows,))


def mlp(*middle: nn.Module, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), *middle, activation(), nn.Linear(4, 3))


class CubeOnce(torch.autograd.Function):
    """A cube whose derivative torch is told not to differentiate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * gradient
