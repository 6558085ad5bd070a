"""Layers that keep statistics or draw random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.base import Apply, Case, features, mlp


def batch_norm_train():
    return mlp(nn.BatchNorm1d(4)), F.cross_entropy, *features()


def batch_norm_eval():
    model = mlp(nn.BatchNorm1d(4))
    model(torch.randn(20, 3) * 2 + 1)
    return model.eval(), F.cross_entropy, *features()


def batch_norm_conv():
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    return model, F.cross_entropy, torch.randn(4, 1, 3, 3), torch.randint(0, 3, (4,))


class Counting(nn.Module):
    """Keeps statistics by assigning new buffers instead of writing to the old ones."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.linear(x))
        self.calls = self.calls + 1
        self.mean = 0.9 * self.mean + y.mean(0)
        return y


def assigned_buffers():
    return Counting(), F.cross_entropy, *features()


def dropout_train():
    return mlp(nn.Dropout(0.4)), F.cross_entropy, *features()


def functional_dropout():
    model = Apply(lambda m, x: m.b(F.dropout(torch.tanh(m.a(x)), 0.5)), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    return model, F.cross_entropy, *features()


def random_noise():
    model = Apply(lambda m, x: m.a(x + 0.3 * torch.randn(x.shape, dtype=torch.float64).to(x)), a=mlp())
    return model, F.cross_entropy, *features()


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        batch_norm_eval,
    )),
    Case("batch_norm_train", batch_norm_train, buffers=True),
    Case("batch_norm_conv", batch_norm_conv, buffers=True),
    Case("assigned_buffers", assigned_buffers, buffers=True),
    Case("dropout_train", dropout_train, random=True),
    Case("functional_dropout", functional_dropout, random=True),
    Case("random_noise", random_noise, random=True),
]  # fmt: skip
