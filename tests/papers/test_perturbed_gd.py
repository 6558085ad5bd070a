"""Algorithm 1 of Du et al. 2017 as the paper's plugin has it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core.plugins import load_plugin
from hybridopt.optimizers import registry as optimizers
from hybridopt.tasks import create
from hybridopt.tasks import registry as tasks
from tests.plugins import forgotten

PARTS = Path(__file__).parents[2] / "papers/2017_du_saddle_octopus/parts.py"
RATE, RADIUS = 0.1, 1e-3


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    with forgotten(optimizers, tasks):
        load_plugin(str(PARTS))
        yield


def pair(start: list[float], method: str = "perturbed_gd", **options: Any) -> tuple[ho.Objective, Any]:
    objective = ho.Objective.from_function(lambda x: x[0] ** 2 - x[1] ** 2, torch.tensor(start, dtype=torch.float64))
    return objective, ho.create(method, objective.model.parameters(), lr=RATE, **options)


def test_without_a_small_gradient_it_is_gradient_descent() -> None:
    ours, optimizer = pair([1.0, 1.0])
    theirs, descent = pair([1.0, 1.0], "sgd")
    for _ in range(10):
        assert optimizer.step(ours) == descent.step(theirs)
        assert not optimizer.report.perturbed
    torch.testing.assert_close(ours.position(), theirs.position(), rtol=1e-15, atol=0)


def test_noise_comes_at_most_every_second_step_and_the_gradient_is_taken_behind_it() -> None:
    objective, optimizer = pair([0.0, 0.0], radius=RADIUS, threshold=1.0)
    perturbed = []
    for _ in range(4):
        before = objective.position()
        assert float(optimizer.step(objective)) == pytest.approx(float(before[0] ** 2 - before[1] ** 2), abs=1e-15)
        perturbed.append(optimizer.report.perturbed)
        # A step of gradient descent multiplies the two coordinates by 1 - 2 rate and 1 + 2 rate.
        noise = objective.position() / torch.tensor([1 - 2 * RATE, 1 + 2 * RATE], dtype=torch.float64) - before
        assert (1e-12 < float(noise.norm()) <= RADIUS) is perturbed[-1]
    assert perturbed == [True, False, True, False]


def test_it_goes_on_from_its_state_to_the_last_bit() -> None:
    objective, optimizer = pair([0.0, 0.0], radius=RADIUS, threshold=1.0)
    optimizer.step(objective)
    position, state = objective.position().tolist(), copy.deepcopy(optimizer.state_dict())
    other, again = pair(position, radius=RADIUS, threshold=1.0)
    again.load_state_dict(state)
    for _ in range(5):
        optimizer.step(objective)
        again.step(other)
    assert torch.equal(objective.position(), other.position())


def test_starts_are_uniform_in_the_cube_and_belong_to_the_seed() -> None:
    task = create("near_saddle", problem="octopus_10")
    starts = torch.stack([task.model(seed).x.detach() for seed in range(200)])
    assert torch.equal(starts[3], task.model(3).x)
    assert float(starts.abs().max()) <= 1
    assert float(starts.std()) == pytest.approx(3**-0.5, rel=0.05)
    assert task.targets[0].value == pytest.approx(-10 * 61.575, rel=1e-3)
