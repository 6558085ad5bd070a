"""The layers that K-BFGS has matrices for, and what it sees of them in one evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.curvature.kronecker.calls import patches
from hybridopt.objective import Objective
from hybridopt.objective.data_parallel import DataParallel

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(eq=False)
class Layer:
    """A weight, as (groups, rows, columns), and its bias, if it has one, as a further column.

    Attributes:
        weight: The parameter.
        bias: The bias that always goes with it, or None.
        modules: Those that use the weight.
        kind: ``linear`` or ``convolution``.
        groups: Groups of a convolution; 1 for linear layers.
    """

    weight: Tensor
    bias: Tensor | None
    modules: list[nn.Module] = field(repr=False)
    kind: str
    groups: int

    @property
    def rows(self) -> int:
        """Outputs in a group."""
        return self.weight.shape[0] // self.groups

    @property
    def columns(self) -> int:
        """Inputs in a group, with the one of the bias."""
        return self.weight[0].numel() + (self.bias is not None)

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns tensors in the shapes of weight and bias as one matrix, (groups, rows, columns).

        Args:
            weight: In the weight's shape.
            bias: In the bias's shape; None if the layer has none.
        """
        matrix = weight.reshape(self.groups, self.rows, -1)
        return matrix if bias is None else torch.cat([matrix, bias.reshape(self.groups, self.rows, 1)], dim=2)

    def parts(self, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns what `matrix` joined.

        Args:
            matrix: Shape (groups, rows, columns).
        """
        if self.bias is None:
            return matrix.reshape(self.weight.shape), None
        return matrix[..., :-1].reshape(self.weight.shape), matrix[..., -1].reshape(self.bias.shape)


def layers_of(model: nn.Module, parameters: Sequence[Tensor], largest: int) -> list[Layer]:
    """Returns the layers of a model whose weights are among some parameters.

    These are `nn.Linear` and `nn.Conv1d` to `nn.Conv3d` with zero padding, whose weights are parameters themselves (not
    computed, as weight normalization does), and which are called (as those in `nn.MultiheadAttention` are not). A
    weight in several modules is one layer. A bias belongs to it if it is the bias of all of them and of no other.

    Args:
        model: The model.
        parameters: Those that are optimized.
        largest: No layer has more rows or columns than this.
    """
    wanted = {id(parameter) for parameter in parameters}
    users: dict[int, list[nn.Module]] = defaultdict(list)
    partners: dict[int, set[int]] = defaultdict(set)
    bypassed = {
        id(part) for owner in model.modules() if isinstance(owner, nn.MultiheadAttention) for part in owner.modules()
    }
    for module in model.modules():
        if id(module) in bypassed:
            continue
        weight = module._parameters.get("weight")
        if weight is None or id(weight) not in wanted or not _supported(module):
            continue
        users[id(weight)].append(module)
        if module.bias is not None:
            partners[id(module.bias)].add(id(weight))
    layers = []
    for modules in users.values():
        first = modules[0]
        if len({(type(module), getattr(module, "groups", 1)) for module in modules}) > 1:
            continue
        biases = {id(module.bias): module.bias for module in modules}
        bias = next(iter(biases.values())) if len(biases) == 1 else None
        if bias is not None and (id(bias) not in wanted or len(partners[id(bias)]) > 1):
            bias = None
        kind = "linear" if isinstance(first, nn.Linear) else "convolution"
        layer = Layer(first.weight, bias, modules, kind, getattr(first, "groups", 1))
        if max(layer.rows, layer.columns) <= largest:
            layers.append(layer)
    return layers


def _supported(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return True
    return isinstance(module, _CONVOLUTIONS) and module.padding_mode == "zeros" and _padding(module) is not None


def _padding(module: Any) -> tuple[int, ...] | None:
    """Zeros at either side of each dimension, None if they differ."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)
    return tuple(module.padding)


class Seen:
    """Sums over all rows (samples, and positions where the weight is shared) that passed through a layer.

    Attributes:
        rows: How many.
        outputs: Sum of the pre-activations, (groups, rows of the weight).
        gradients: Sum of the loss's derivatives with respect to them.
        inputs: Sum of the inputs, (groups, columns); None if not asked for.
        products: Sum of their outer products, (groups, columns, columns).
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.rows = 0
        self.outputs: Tensor | float = 0.0
        self.gradients: Tensor | None = None
        self.inputs: Tensor | None = None
        self.products: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether the layer took part in the loss."""
        return self.rows > 0 and self.gradients is not None

    def forward(self, module: nn.Module, x: Tensor, h: Tensor, *, inputs: bool) -> None:
        """Takes in one call.

        Args:
            module: Which was called.
            x: Its input.
            h: Its output, with a graph.
            inputs: Whether to sum up inputs too.
        """
        outputs = self._flat(h.detach())
        sums = {"rows": outputs.shape[1], "outputs": outputs.sum(dim=1)}
        if inputs:
            with torch.autocast(x.device.type, enabled=False):
                rows = self._inputs(module, x.detach())
                sums |= {"inputs": rows.sum(dim=1), "products": rows.mT @ rows}

        def backward(gradient: Tensor) -> None:
            for name, total in (sums | {"gradients": self._flat(gradient).sum(dim=1)}).items():
                before = getattr(self, name)
                setattr(self, name, total if before is None else before + total)

        # Only what the loss depends on counts: not what checkpointing runs again, or what runs without a graph.
        if h.requires_grad:
            h.register_hook(backward)

    def _flat(self, h: Tensor) -> Tensor:
        """Outputs of a call as (groups, rows, outputs in a group)."""
        h = h.to(self.layer.weight.dtype)  # under autocast it may be in half precision
        if self.layer.kind == "linear":
            return h.reshape(1, -1, h.shape[-1])
        if h.dim() == self.layer.weight.dim() - 1:
            h = h[None]
        return h.flatten(2).unflatten(1, (self.layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)

    def _inputs(self, module: Any, x: Tensor) -> Tensor:
        """Inputs of a call as (groups, rows, columns)."""
        x = x.to(self.layer.weight.dtype)
        if self.layer.kind == "linear":
            rows = x.reshape(1, -1, x.shape[-1])
        else:
            x = x[None] if x.dim() == self.layer.weight.dim() - 1 else x
            shape = (module.stride, _padding(module), module.dilation)
            rows = patches(x, module.kernel_size, shape, module.groups).flatten(1, 2)
        return rows if self.layer.bias is None else torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], dim=2)


def of_all_processes(seen: Sequence[Seen], objective: Objective) -> list[Seen]:
    """Returns what was seen of the whole batch, where that is divided among processes.

    Args:
        seen: What was seen of each layer here; changed in place.
        objective: The objective that was evaluated.
    """
    if not isinstance(objective, DataParallel):
        return list(seen)
    sums = [one for one in seen if one.complete]
    counts = [float(one.rows) for one in sums]
    (rows,) = objective.summed([torch.tensor(counts, dtype=torch.float64, device=objective.space.device)])
    for one, count in zip(sums, rows.tolist(), strict=True):
        one.rows = int(count)
    for name in ("outputs", "gradients", "inputs", "products"):
        present = [one for one in sums if getattr(one, name) is not None]
        totals = objective.summed([getattr(one, name) for one in present], as_loss=name == "gradients")
        for one, total in zip(present, totals, strict=True):
            setattr(one, name, total)
    return list(seen)


@contextmanager
def watching(layers: Sequence[Layer], *, inputs: bool) -> Iterator[list[Seen]]:
    """Lets an evaluation in this context be seen.

    Args:
        layers: Which to watch.
        inputs: Whether to sum up their inputs and the outer products of those.

    Yields:
        What is seen of each layer, complete once the evaluation's gradient has been taken.
    """
    seen, handles = [Seen(layer) for layer in layers], []
    try:
        for one in seen:
            for module in one.layer.modules:

                def hook(module: nn.Module, args: Any, h: Tensor, to: Seen = one) -> None:
                    if not torch._C._are_functorch_transforms_active():  # else there is nothing to be seen
                        to.forward(module, args[0], h, inputs=inputs)

                handles.append(module.register_forward_hook(hook))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
