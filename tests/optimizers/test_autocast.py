"""bfloat16 autocast inside the model's forward works with every method of mini-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from tests.optimizers.catalogue import FIRST_ORDER, Method, each, names, training

HYBRIDS = names("swats", "lookahead")


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = self.layers(x)
        assert outputs.dtype == torch.bfloat16
        return outputs.float()


@each([*FIRST_ORDER, *HYBRIDS])
def test_the_loss_falls_and_parameters_stay_float32(method: Method) -> None:
    problem = training(Autocast)
    # A rate that bfloat16 can see within a few steps.
    rate = {"lion": 0.01, "adadelta": 5.0, "radam": 0.1}.get(method.name)
    optimizer = method.create(problem.model.parameters(), **({} if rate is None else {"lr": rate}))
    losses = [float(optimizer.step(problem.objective)) for _ in range(12)]
    assert min(losses[-3:]) < losses[0]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in problem.model.parameters())


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_learned_rate_under_autocast(name: str) -> None:
    problem = training(Autocast)
    optimizer = ho.create(name, problem.model.parameters(), lr=1e-2, hypergradient=1e-4)
    losses = [float(optimizer.step(problem.objective)) for _ in range(12)]
    assert losses[-1] < losses[0]
    assert optimizer.report.rate != 1e-2
