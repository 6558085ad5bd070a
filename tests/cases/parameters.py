"""Parameters in unusual places: normalized, tied, shared, listed, frozen, parametrized, of the loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.cases.base import Apply, Case, features, mlp


def _weight_norm(wrap: Callable[..., nn.Module], **options: Any):
    first = wrap(nn.Linear(3, 4), **options)
    return nn.Sequential(first, nn.Tanh(), nn.Linear(4, 3)), F.cross_entropy, *features()


class NormedLinear(nn.Module):
    """A weight-normalized linear layer, written out."""

    def __init__(self, bias: Tensor, g: Tensor, v: Tensor, *, over_all: bool) -> None:
        super().__init__()
        self.bias, self.g, self.v = (nn.Parameter(tensor.detach()) for tensor in (bias, g, v))
        self.over_all = over_all

    def forward(self, x: Tensor) -> Tensor:
        square = self.v.square()
        norm = (square.sum() if self.over_all else square.sum(1, keepdim=True)).sqrt()
        return F.linear(x, self.g * self.v / norm, self.bias)


def _weight_norm_written_out(wrap: Callable[..., nn.Module], **options: Any):
    model, *rest = _weight_norm(wrap, **options)
    bias, g, v = model[0].parameters()
    model[0] = NormedLinear(bias, g, v, over_all=options.get("dim", 0) is None)
    return model, *rest


def tied():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 5, bias=False))
    model[3].weight = model[0].weight
    return model, F.cross_entropy, torch.randint(0, 5, (6,)), torch.randint(0, 5, (6,))


def shared_module():
    layer = nn.Linear(3, 3)
    model = Apply(lambda m, x: m.first(torch.tanh(m.second(x))), first=layer, second=layer)
    return model, F.cross_entropy, *features()


class Listed(nn.Module):
    """Registers its weights and reads them through a list and a dict of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(4, 3))
        self.b = nn.Parameter(torch.randn(3, 4))
        self.in_list = [self.a]
        self.in_dict = {"b": self.b}

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.in_list[0])), self.in_dict["b"])


def listed():
    return Listed(), F.cross_entropy, *features()


def frozen():
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model, F.cross_entropy, *features()


def unused():
    model = Apply(lambda m, x: m.used(x), used=mlp(), spare=nn.Linear(2, 2))
    return model, F.cross_entropy, *features()


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def parametrized():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    parametrizations.orthogonal(model[2])
    return model, F.cross_entropy, *features()


def spectral_norm_eval():
    model = mlp()
    parametrizations.spectral_norm(model[0])
    return model.eval(), F.cross_entropy, *features()


class Mixed(nn.Module):
    """A float32 layer followed by a float64 one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).double())


def mixed_dtypes():
    return Mixed(), F.cross_entropy, *features()


class ScaledLoss(nn.Module):
    """A loss with a parameter of its own, a learned noise level (Kendall and Gal 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor([0.3]))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets).square().mean() * (-self.log_variance).exp() + self.log_variance).sum()


def loss_with_parameter():
    return nn.Linear(3, 2), ScaledLoss(), torch.randn(6, 3), torch.randn(6, 2)


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        tied, shared_module, listed, frozen, unused, parametrized, spectral_norm_eval, loss_with_parameter,
    )),
    Case("mixed_dtypes", mixed_dtypes, mixed=True),
    Case("weight_norm_old", partial(_weight_norm, nn.utils.weight_norm),
         written_out=partial(_weight_norm_written_out, nn.utils.weight_norm)),
    Case("weight_norm", partial(_weight_norm, parametrizations.weight_norm),
         written_out=partial(_weight_norm_written_out, parametrizations.weight_norm)),
    Case("weight_norm_over_all", partial(_weight_norm, parametrizations.weight_norm, dim=None),
         written_out=partial(_weight_norm_written_out, parametrizations.weight_norm, dim=None)),
]  # fmt: skip
