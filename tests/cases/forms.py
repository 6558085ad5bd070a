"""Forms of inputs, outputs and losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases.base import Apply, Case, features, mlp


def several_inputs():
    model = Apply(lambda m, x, y: m.b(torch.tanh(m.a(x) * y)), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    x, t = features()
    return model, F.cross_entropy, (x, torch.randn(6, 4)), t


def named_inputs():
    model = Apply(lambda m, *, x, scale: m.b(torch.tanh(m.a(x)) * scale), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    x, t = features()
    return model, F.cross_entropy, {"x": x, "scale": torch.rand(6, 1)}, t


def dict_outputs():
    model = Apply(lambda m, x: {"class": m.a(x), "value": (torch.tanh(m.b(x)), 7)}, a=mlp(), b=nn.Linear(3, 1))
    x, t = features()

    def loss(outputs: Any, targets: Any) -> Tensor:
        value = F.mse_loss(outputs["value"][0][:, 0], targets["value"])
        return F.cross_entropy(outputs["class"], targets["class"]) + value

    return model, loss, x, {"class": t, "value": torch.randn(6)}


def dependent_outputs():
    # The logits are computed from the features, and both are returned; the loss sees both.
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.tanh(m.a(x))
        return m.b(features), features

    model = Apply(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    return model, lambda z, t: F.cross_entropy(z[0], t) + 0.1 * z[1].square().sum(), *features()


def unused_output():
    model, _, x, t = dependent_outputs()
    return model, lambda z, t: F.cross_entropy(z[0], t), x, t


def repeated_output():
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        z = m.a(x)
        return z, z

    return (
        Apply(forward, a=mlp()),
        lambda z, t: F.cross_entropy(z[0], t) + z[1].square().mean(),
        *features(),
    )


def no_targets():
    return mlp(), lambda outputs: outputs.square().mean() + outputs.exp().mean(), torch.randn(5, 3), None


def returns_loss():
    model = Apply(lambda m, x, t: F.cross_entropy(m.a(x), t), a=mlp())
    return model, None, features(), None


CASES: list[Case] = [
    *(Case(make.__name__, make) for make in (
        several_inputs, named_inputs, dict_outputs, dependent_outputs, unused_output, repeated_output, no_targets,
    )),
    Case("returns_loss", returns_loss, loss_fn=False),
]  # fmt: skip
