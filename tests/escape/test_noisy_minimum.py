"""On mini-batches of 32: at a minimum hardly any jump is kept, from a saddle every method gets away, however slow."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.tasks import saddles
from tests.optimizers.catalogue import Method, each

METHODS = [Method("sgd", {"lr": 0.05}), Method("momentum", {"lr": 0.01}), Method("adam", {"lr": 0.01})]
SEEDS = 6
STEPS = 150


def fitted() -> tuple[nn.Module, ho.Objective, torch.Tensor, torch.Tensor]:
    """A small network at the minimum of noisy data."""
    torch.manual_seed(0)
    inputs = torch.randn(600, 4)
    targets = torch.sin(inputs[:, :1]) + 0.5 * torch.randn(600, 1)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    optimizer = ho.create("lbfgs", model.parameters())
    for _ in range(80):
        optimizer.step(objective)
    return model, objective, inputs, targets


@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature"])
@each(METHODS)
def test_false_alarms_are_undone(method: Method, escape: str) -> None:
    counts: Counter[str] = Counter()
    model, objective, inputs, targets = fitted()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in range(SEEDS):
        model.load_state_dict(start)
        random = torch.Generator().manual_seed(seed)
        optimizer = method.create(model.parameters(), escape={"name": escape, "seed": seed, "stall_window": 5})
        for _ in range(STEPS):
            rows = torch.randint(0, 600, (32,), generator=random)
            optimizer.step(objective.with_batch(inputs[rows], targets[rows]))
            counts.update(event["event"] for event in optimizer.report.events)
    assert counts["escape_jump"] >= 10, counts
    # Judged on the batch of the last step, nearly all would be kept: it was fitted to that batch.
    assert counts["escaped"] <= 0.05 * counts["escape_jump"], counts


@each(METHODS)
def test_true_saddles_are_left(method: Method) -> None:
    left = 0
    for seed in range(4):
        random = torch.Generator().manual_seed(seed)
        inputs = torch.randn(400, 4, generator=random)
        targets = inputs @ torch.randn(4, 2, generator=random)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
        start = objective.value()
        optimizer = method.create(model.parameters(), escape={"name": "negative_curvature", "seed": seed})
        for _ in range(250):
            rows = torch.randint(0, 400, (32,), generator=random)
            optimizer.step(objective.with_batch(inputs[rows], targets[rows]))
        left += objective.value() < 0.2 * start
    assert left == 4


@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature"])
@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_slow_descent_from_zero_weights_on_digits_takes_time_but_gets_away(rate: float, escape: str) -> None:
    # The escape grows by 0.5 % a step at the lower rate: for hundreds of steps nothing can be seen in the losses.
    problem = saddles.problem("digits")
    for seed in range(2):
        objective = problem.objective(torch.float32)
        random = torch.Generator().manual_seed(seed)
        optimizer = ho.create("sgd", objective.model.parameters(), lr=rate, escape={"name": escape, "seed": seed})
        found: Counter[str] = Counter()
        for step in range(4000):
            rows = torch.randint(0, objective.samples, (32,), generator=random)
            optimizer.step(objective.with_batch(objective.inputs[rows], objective.targets[rows]))
            found.update(event["event"] for event in optimizer.report.events)
            if step % 100 == 0 and objective.value() < 2.0:
                break
        assert objective.value() < 2.0, (seed, found)
        assert found["escaped"] >= 1
