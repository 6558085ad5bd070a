"""What cases for two processes are made of; see parallel_cases.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import hybridopt as ho

CUTS = (0, 4, 11)  # unequal parts of 11 samples
SIZE = len(CUTS) - 1
CASES: dict[str, Callable[[int], Any]] = {}


def case(function: Callable[[int], Any]) -> Callable[[int], Any]:
    CASES[function.__name__] = function
    return function


def net(dtype: torch.dtype = torch.float64, seed: int = 1, **layers: Any) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), layers.get("between", nn.Tanh()), nn.Linear(5, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float64, classes: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (11,), generator=generator)
    return inputs.to(dtype), targets if classes else torch.randn(11, 3, generator=generator, dtype=torch.float64).to(
        dtype
    )


def mine(rank: int) -> slice:
    return slice(CUTS[rank], CUTS[rank + 1])


def loss_of(reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(functional.cross_entropy, reduction=reduction)


def both(rank: int, model: nn.Module, loss: Any = None, reduction: str = "mean", classes: bool = True) -> Any:
    """Returns the objective of the whole batch in one process, and that which is divided among two."""
    loss = loss_of(reduction) if loss is None else loss
    inputs, targets = data(next(model.parameters()).dtype, classes)
    part = mine(rank)
    shared = ho.Objective(model, loss, inputs[part], targets[part]).in_data_parallel(reduction=reduction)
    return ho.Objective(model, loss, inputs, targets), shared


def off(found: Any, wanted: Any) -> float:
    """Largest difference, relative to the largest entry."""
    found, wanted = torch.as_tensor(found).double(), torch.as_tensor(wanted).double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


def bits(model: nn.Module) -> list[list[float]]:
    return [parameter.detach().double().flatten().tolist() for parameter in model.parameters()]


def message(function: Callable[[], Any]) -> str:
    try:
        function()
    except ho.HybridoptError as error:
        return str(error)
    return ""
