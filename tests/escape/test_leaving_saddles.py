"""With either escape, optimizers of every family leave strict saddles that they stay at without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import hybridopt as ho
from tests.optimizers.catalogue import Method, each, function, saddle

METHODS = [
    Method("sgd", {"lr": 0.1}),
    Method("adam", {"lr": 0.02}),
    Method("lbfgs"),
    Method("newton_cg"),
    Method("trust_newton_cg"),
]
ESCAPES = ["perturbation", "negative_curvature"]
ALL = [*ESCAPES, "neon", "noisy_gradient", "chain"]
both = pytest.mark.parametrize("escape", ESCAPES)


def go(objective: ho.Objective, method: Method, escape: Any, steps: int, below: float) -> list[str]:
    """Steps until the function is below a value and no jump waits for its verdict; returns the names of the events."""
    optimizer = method.create(objective.model.parameters(), escape=escape)
    found: list[str] = []
    for _ in range(steps):
        loss = float(optimizer.step(objective))
        found += [event["event"] for event in optimizer.report.events]
        if loss < below and not (escape and optimizer.escape.busy(optimizer)):
            break
    return found


def linear_net(depth: int) -> ho.Objective:
    """Zero weights: a strict saddle for two layers, a flat one, without negative curvature, for three."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4, bias=False) for _ in range(depth - 1)]
    model = nn.Sequential(*layers, nn.Linear(4, 2, bias=False)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.randn(40, 4).double()
    return ho.Objective(model, nn.functional.mse_loss, inputs, inputs @ torch.randn(4, 2).double())


def digits(samples: int = 100) -> ho.Objective:
    """An MLP with zero weights on real digits: its gradient vanishes once the last bias fits the class shares."""
    data, labels = load_digits(return_X_y=True)
    model = nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10)).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    inputs, targets = torch.from_numpy(data[:samples] / 16), torch.from_numpy(labels[:samples])
    return ho.Objective(model, nn.functional.cross_entropy, inputs, targets)


@pytest.mark.parametrize("escape", ALL)
@each(METHODS)
def test_a_saddle_in_the_plane(method: Method, escape: str) -> None:
    objective = function(saddle, [0.0, 0.0])
    found = go(objective, method, escape, 400, below=-0.499)
    assert objective.value() < -0.499
    assert "escaped" in found


@each(METHODS)
def test_the_same_saddle_without_an_escape(method: Method) -> None:
    objective = function(saddle, [0.0, 0.0])
    go(objective, method, None, 50, below=-0.499)
    assert objective.value() == 0.0


@both
@each(METHODS)
def test_a_linear_network_from_zero(method: Method, escape: str) -> None:
    objective = linear_net(2)
    start = objective.value()
    found = go(objective, method, escape, 600, below=1e-2)
    assert objective.value() < 0.02 < start
    assert "escaped" in found


@each(METHODS)
def test_a_flat_saddle_has_no_negative_curvature_but_is_left_by_noise(method: Method) -> None:
    objective = linear_net(3)
    assert "escape_jump" not in go(objective, method, "negative_curvature", 10, below=1e-2)
    start = objective.value()
    # The first radius at which anything falls within a window is large here: the function is of third order.
    escape = {"name": "perturbation", "radius": 0.3, "tries": 6}
    found = go(objective, method, escape, 900, below=0.5 * start)
    assert objective.value() < 0.6 * start
    assert "escaped" in found


@pytest.mark.parametrize("escape", ALL)
@each([method for method in METHODS if method.name != "sgd"])  # its plateaus take thousands of steps
def test_zero_weights_on_digits(method: Method, escape: str) -> None:
    objective = digits()
    found = go(objective, method, escape, 900, below=0.2)
    # L-BFGS with noise ends in a valley where most hidden units are saturated; that is no saddle.
    assert objective.value() < (0.5 if escape == "noisy_gradient" else 0.25)
    assert "escaped" in found


def test_one_saddle_after_the_other() -> None:
    # A single eigenvector leads along a symmetric subspace to the next saddle; the escape is armed again there.
    objective = function(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 2 - (x[2] ** 2 - x[2] ** 4 / 2) * x[1] ** 2, [0.0, 0.0, 0.0]
    )
    escape = {"name": "negative_curvature", "noise": 0.0, "window": 5}
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.1, escape=escape)
    escapes = 0
    for _ in range(200):
        optimizer.step(objective)
        escapes += sum(event["event"] == "escaped" for event in optimizer.report.events)
    assert escapes == 2
    # At the end x1 = +-sqrt(3/2), x2 = +-1.
    assert objective.value() == pytest.approx(-(1.5**2) / 2, abs=1e-8)


def test_the_direction_is_one_of_negative_curvature_and_reported() -> None:
    objective = function(lambda x: x[0] ** 2 - 3 * x[1] ** 2 + x[1] ** 4, [0.0, 0.0])
    escape = {"name": "negative_curvature", "noise": 0.0}
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    optimizer.step(objective)
    optimizer.step(objective)
    stall, jump = optimizer.report.events
    assert stall["reason"] == "small_gradient"
    assert jump["lambda_min"] == pytest.approx(-6.0)
    assert jump["products"] <= 2
    assert jump["decrease"] > 1.0
    x = objective.position()
    assert abs(float(x[0])) < 1e-6
    assert objective.value() == pytest.approx(-jump["decrease"])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_jump_combines_all_directions_of_negative_curvature_and_adds_noise(noise: float) -> None:
    curvatures = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    objective = function(lambda x: curvatures @ x**2 + (x**4).sum(), [0.0] * 6)
    escape = {"name": "negative_curvature", "noise": noise}
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    optimizer.step(objective)
    optimizer.step(objective)
    jump = objective.position()
    down, rest = jump[:3], float(torch.linalg.vector_norm(jump[3:]))
    length = float(torch.linalg.vector_norm(down))
    assert float(down.abs().min()) > 0.02 * length, "a single eigenvector"
    assert (1e-3 < rest / length < 0.12) if noise else rest < 1e-9 * length


def test_a_long_jump_that_overshoots_is_shortened() -> None:
    objective = function(lambda x: x[0] ** 2 - x[1] ** 2 + 1e4 * x[1] ** 4, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape="negative_curvature")
    optimizer.step(objective)
    optimizer.step(objective)
    jump = optimizer.report.events[-1]
    assert jump["event"] == "escape_jump"
    assert jump["jump_norm"] < 0.02
    assert objective.value() < 0


def test_perturbations_are_uniform_in_a_ball_that_grows() -> None:
    from hybridopt.escape.perturbation import Perturbation

    escape = Perturbation(radius=0.5, growth=2.0, max_radius=3.0)
    objective = function(lambda x: (x**2).sum(), torch.zeros(3).tolist())
    random = torch.Generator().manual_seed(0)
    for attempt, radius in ((0, 0.5), (2, 2.0)):
        jumps = torch.stack([escape.propose(None, objective, attempt, random).jump for _ in range(600)])
        lengths = jumps.norm(dim=1)
        assert float(lengths.max()) <= radius
        # Within a ball of half the radius lies an eighth of the volume.
        assert float((lengths < radius / 2).double().mean()) == pytest.approx(1 / 8, abs=0.05)
        assert float(jumps.mean(0).norm()) < 0.1 * radius


@both
def test_at_a_minimum_nothing_is_gained_and_nothing_lost(escape: str) -> None:
    objective = function(lambda x: ((x - 1) ** 2).sum(), [1.0, 1.0])
    optimizer = ho.create("sgd", objective.model.parameters(), escape=escape)
    found = []
    while not found or not optimizer.escape.settled(optimizer):
        optimizer.step(objective)
        found += [event["event"] for event in optimizer.report.events]
        assert len(found) < 20
    assert "escaped" not in found
    assert objective.position().tolist() == [1.0, 1.0]
