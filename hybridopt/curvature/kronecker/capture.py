"""One forward pass of a model in which every layer that K-FAC knows is watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError

from hybridopt.core import CombinationError
from hybridopt.curvature.kronecker import calls as kinds
from hybridopt.curvature.kronecker.calls import CELLS, Call
from hybridopt.objective import Objective, convolution, recurrent
from hybridopt.objective.point import flatten_outputs

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_DEFAULTS = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


class Capture:
    """What one forward pass left: the calls of layers, and the graph to differentiate the outputs in.

    Attributes:
        calls: Uses of layers, in the order of the forward pass.
        excluded: Positions of parameters that some other operation uses as well, so that the calls do not tell their
            whole part in the function.
        others: Positions of parameters that operations beside those of `calls` use.
        outputs: The tensors among the model's outputs in which the loss is curved, as in `Point.outputs`.
        output_gradients: The loss's derivatives with respect to them.
    """

    def __init__(self, objective: Objective, excluded: frozenset[int]) -> None:
        self.objective = objective
        self.calls: list[Call] = []
        self.excluded = excluded
        self.others: set[int] = set()
        self.outputs: list[Tensor] = []
        self.output_gradients: list[Tensor] = []
        parameters = objective.space.parameters
        self._positions = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._anchor = torch.zeros((), dtype=objective.space.dtype, device=objective.space.device, requires_grad=True)

    def backward(self, cotangents: Sequence[Tensor], others: Sequence[int] = ()) -> list[Tensor | None]:
        """Differentiates <outputs, cotangents>: fills the gradients of all calls.

        Args:
            cotangents: One for each of `outputs`.
            others: Positions of parameters whose gradient is wanted, none of them a layer's.

        Returns:
            The gradients of `others`.

        Raises:
            CombinationError: If layers run under `torch.utils.checkpoint`.
        """
        for call in self.calls:
            call.raw = None
        parameters = self.objective.space.parameters
        inputs = [self._anchor, *(parameters[place] for place in others)]
        self.objective.ledger.pay("gradient", self.objective.work)
        if not self.outputs:
            return [None] * len(others)
        try:
            gradients = torch.autograd.grad(self.outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
        except CheckpointError as error:  # the second pass is not watched
            raise CombinationError(
                "The model runs layers under torch.utils.checkpoint, whose second forward pass K-FAC cannot watch. "
                "Take micro-batches instead of it to save memory, or use lbfgs, newton_cg or hessian_free."
            ) from error
        return list(gradients[1:])

    # -- what the mode asks ----------------------------------------------------------------------------------------

    def _position(self, tensor: Tensor | None) -> int | None:
        """Position of a parameter that is to be watched; None for anything else."""
        place = None if tensor is None else self._positions.get(id(tensor))
        return None if place in self.excluded else place

    def _known(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether a call with these weights and biases can be watched: parameters or constants, one trainable."""
        present = [tensor for tensor in tensors if tensor is not None]
        if not any(self._position(tensor) is not None for tensor in present):
            return False
        # A computed weight (normalized, orthogonal, ...) hides its parameters; an excluded one must keep its gradient.
        return all(tensor.is_leaf and self._positions.get(id(tensor)) not in self.excluded for tensor in present)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """Serves a call of `F.linear`; None if it is not to be watched."""
        if not self._known([weight, bias]) or x.numel() == 0:
            return None
        samples, seen = self.objective.samples, x.detach()
        call = Call(
            self._position(weight),
            self._position(bias),
            "linear",
            1,
            lambda: kinds.samples_first(seen, samples),
            lambda raw: kinds.samples_first(raw, samples),
        )
        self.calls.append(call)
        return kinds.Affine.apply(self._anchor, call, x, weight.detach(), None if bias is None else bias.detach())

    def convolution(
        self,
        name: str,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Tensor | None:
        """Serves a call of `F.conv1d`, `conv2d` or `conv3d`; None if it is not to be watched."""
        count = _CONVOLUTIONS[name]
        if not self._known([weight, bias]):
            return None
        kernel = tuple(weight.shape[2:])
        stride, dilation = _each(stride, count), _each(dilation, count)
        if isinstance(padding, str):
            totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
            x = F.pad(x, [side for total in reversed(totals) for side in (total // 2, total - total // 2)])
            padding = 0
        shape = (stride, _each(padding, count), dilation)
        single = x.dim() == count + 1
        if single:
            x = x[None]
        if not convolution.supports(name, (x, weight)):
            return None
        seen = x.detach()
        call = Call(
            self._position(weight),
            self._position(bias),
            "convolution",
            groups,
            lambda: kinds.patches(seen, kernel, shape, groups),
            lambda raw: kinds.places(raw, groups),
        )
        self.calls.append(call)
        biased = None if bias is None else bias.detach()
        out = kinds.Convolve.apply(self._anchor, call, x, weight.detach(), biased, shape, groups)
        return out[0] if single else out

    def recurrent(self, name: str, args: Sequence[Any]) -> Any:
        """Serves a call of `torch.lstm`, `gru`, `rnn_tanh` or `rnn_relu`; None if it is not to be watched."""
        if not recurrent.supports(name, args) or not self._known(args[2]):
            return None
        return recurrent.through_layers(args, lambda *sweep: self._sweep(name, *sweep))

    def cell(self, name: str, args: Sequence[Any]) -> Any:
        """Serves a call of `torch.lstm_cell`, `gru_cell`, ...; None if it is not to be watched."""
        x, hx, *weights = args
        name = name.removesuffix("_cell")
        state, memory = hx if name == "lstm" else (hx, None)
        tensors = [tensor for tensor in (x, state, memory, *weights) if tensor is not None]
        if not self._known(weights) or x.dim() != 2 or x.numel() == 0 or len({t.dtype for t in tensors}) > 1:
            return None
        if len(weights) != 4 or any(bias is None for bias in weights[2:]):
            weights = weights[:2]
        out, memory = self._sweep(name, x[None], state, memory, weights)
        return (out[0], memory) if name == "lstm" else out[0]

    def _sweep(
        self, name: str, x: Tensor, h0: Tensor, c0: Tensor | None, weights: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        biases = [None if len(weights) == 2 else self._position(bias) for bias in weights[2:]] or [None, None]
        calls = [
            Call(self._position(weight), bias, "recurrent", 1, _no_inputs, kinds.steps)
            for weight, bias in zip(weights[:2], biases, strict=True)
        ]
        self.calls += [call for call in calls if call.weight is not None or call.bias is not None]
        cell = CELLS[name]
        packed = cell.pack(*(weight.detach() for weight in weights))
        return kinds.Recur.apply(self._anchor, calls, cell, x, h0, c0, *packed)

    def note_others(self, arguments: Any, result: Any) -> None:
        """Remembers the parameters among arguments that the watched layers do not account for."""
        places = [self._positions.get(id(tensor)) for tensor in _tensors(arguments)]
        if any(place is not None for place in places) and any(tensor.requires_grad for tensor in _tensors(result)):
            self.others |= {place for place in places if place is not None}

    def run(self) -> None:
        """Runs the model and the loss."""
        # The backend of `Objective.at`, so that dropout within attention draws the same masks.
        with sdpa_kernel(SDPBackend.MATH), _Watch(self):
            loss, result = self.objective._forward(separate=True)
        outputs = [] if self.objective.loss_fn is None else flatten_outputs(result)
        gradients: Sequence[Tensor | None] = ()
        if outputs and loss.requires_grad:
            gradients = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
        # Those that `Point.outputs` has: the others have no curvature.
        pairs = [(z, dz) for z, dz in zip(outputs, gradients, strict=False) if dz is not None and dz.requires_grad]
        self.outputs = [z for z, _ in pairs]
        self.output_gradients = [dz.detach() for _, dz in pairs]


def _no_inputs() -> Tensor:
    raise AssertionError("the layer has not run")


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value) * (count if len(value) == 1 else 1)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for item in nested:
            yield from _tensors(item)
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))


# Torch's own attention, without the line that would hand it back to the mode.
_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda arguments: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


class _Watch(TorchFunctionMode):
    """Serves the functions that K-FAC knows by those of `calls`."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # its projections are layers; torch switches the mode off while a function is handled
                return _attention(*args, **kwargs)
        # Layers inside the model's own vmap or grad are not watched: their inputs are not there outside of it.
        inside = torch._C._are_functorch_transforms_active()
        served = None if inside else self._serve(getattr(func, "__name__", ""), args, kwargs)
        if served is None:
            result = func(*args, **kwargs)
            self.capture.note_others((args, kwargs), result)
            return result
        inputs, result = served
        self.capture.note_others(inputs, result)  # a parameter may be the input of a layer
        return result

    def _serve(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Returns the inputs of a layer and what it returns; None if the call is of no layer that is known."""
        capture = self.capture
        if name == "linear" or name in _CONVOLUTIONS:
            given = {**_DEFAULTS, **dict(zip(_DEFAULTS, args, strict=False)), **kwargs}
            if len(given) > len(_DEFAULTS):
                return None
            inputs, weight, bias, *shape = given.values()
            result = (
                capture.linear(inputs, weight, bias)
                if name == "linear"
                else capture.convolution(name, inputs, weight, bias, *shape)
            )
        elif name in CELLS and not kwargs:
            inputs, result = args[:2], capture.recurrent(name, args)
        elif name.removesuffix("_cell") in CELLS and not kwargs:
            inputs, result = args[:2], capture.cell(name, args)
        else:
            return None
        return None if result is None else (inputs, result)


@contextmanager
def capture(objective: Objective, excluded: frozenset[int] = frozenset()) -> Iterator[Capture]:
    """Runs the model where it stands, with the step's random numbers, and keeps what K-FAC needs for a while.

    Layers are recognised by the functions that they call, `F.linear`, `F.conv2d`, `torch.lstm` and so on, so a
    module that is used twice, a weight in two modules and a layer written by hand are all seen.

    Args:
        objective: Bound to the parameters.
        excluded: Positions of parameters not to be watched.

    Yields:
        The capture. Its graph belongs to the context; the ledger pays one gradient for each backward pass.
    """
    objective._problem.uncompiled = True  # calls inside compiled code are not seen
    while True:
        with objective._evaluation(at_start=objective._at_start), torch.enable_grad():
            made = Capture(objective, excluded)
            made.run()
            watched = {place for call in made.calls for place in (call.weight, call.bias)}
            unexpected = (made.others & watched) - {None}
            if not unexpected:
                yield made
                return
        # A parameter is used by something else too: again, with its part left to the ordinary gradient.
        objective.ledger.pay("forward", objective.work)
        excluded = excluded | unexpected
