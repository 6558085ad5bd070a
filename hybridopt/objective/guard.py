"""A forward pass whose graph can be differentiated twice, correctly and fast.

Some of torch's kernels have no double backward, a wrong one, or a slow one. For the forward pass that a curvature
product will be taken on, they are replaced one by one, inside that forward only, so nothing else is slowed down:

- recurrent layers: our own twice-differentiable layers (`recurrent`); where those cannot serve, torch's with cuDNN
  off, since cuDNN has no double backward;
- convolutions: our own, whose second derivatives cost half (`convolution`);
- SiLU and Mish: our own, whose graph keeps two tensors instead of five (`activation`);
- scaled dot-product attention: the MATH backend, since the fused ones have no double backward;
- weight normalization: written out, since `torch._weight_norm` has a wrong double backward (torch 2.13).

Code from `torch.compile` runs as it is written: what it compiles has no double backward.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from hybridopt.objective import activation, convolution, recurrent
from hybridopt.objective.demand import Demand

_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Returns g v / ||v||, the norm over all dimensions but `dim` (Salimans and Kingma 2016, eq. 2).

    Args:
        v: Direction, any shape.
        g: Length, one along `dim`.
        dim: The dimension that is kept; -1 for a norm over all.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))


class _TwiceDifferentiable(TorchFunctionMode):
    def __init__(self, demand: Demand) -> None:
        super().__init__()
        self.demand = demand

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_weight_norm" and not kwargs:
            return weight_norm(*args)
        if torch._C._are_functorch_transforms_active():
            # Ours are differentiated by autograd only; the model's own vmap or grad needs torch's.
            return func(*args, **(kwargs or {}))
        if name in _RECURRENT and not kwargs:
            if recurrent.supports(name, args):
                return recurrent.recurrent(name, args, watch=self.demand.watch)
            with _without_cudnn():
                return self._watched(func(*args))
        if name in _CELLS:
            return self._watched(func(*args, **(kwargs or {})))
        if not kwargs and convolution.supports(name, args):
            return convolution.convolution(name, args, self.demand)
        if activation.supports(name, args, kwargs or {}):
            return activation.activation(name, args[0], self.demand)
        return func(*args, **(kwargs or {}))

    def _watched(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            return self.demand.watch(result)
        states, *rest = result
        return (self.demand.watch(states), *rest)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    # Not `cudnn.flags`: it reads switches that raise once the user has set `fp32_precision` for one operator.
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


@contextmanager
def twice_differentiable(*, hidden: bool = False) -> Iterator[Demand]:
    """Context of a forward pass whose graph is going to be differentiated twice.

    Args:
        hidden: Whether the demand is to keep the hidden states of recurrent layers.

    Yields:
        The demand of that graph.
    """
    demand = Demand(hidden=hidden)
    with sdpa_kernel(SDPBackend.MATH), _TwiceDifferentiable(demand):
        yield demand


@contextmanager
def as_written(wanted: bool) -> Iterator[None]:
    """Context in which what `torch.compile` compiled, models, parts of them or losses, runs as plain torch.

    Args:
        wanted: Whether to do so.
    """
    # Who compiles imports the compiler; who does not is spared that second.
    if not wanted or "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Switches TF32 off on CUDA: losses that decide about a step, and curvature, need all digits of float32.

    Args:
        device: Where the evaluation runs; nothing is done on others than CUDA.
    """
    if device.type != "cuda":
        yield
        return
    # Not `allow_tf32`: reading it raises once the user has set `fp32_precision`; the other way round is fine.
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
