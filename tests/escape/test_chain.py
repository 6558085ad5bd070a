"""A chain tries its members in turn, from one snapshot, under one set of rules."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError
from hybridopt.escape import Escape, Proposal
from hybridopt.escape.chain import Chain
from tests.optimizers.catalogue import function, saddle


class Fixed(Escape):
    """Jumps to where it is told, or nowhere."""

    def __init__(self, jump: list[float] | None, **options: Any) -> None:
        super().__init__(**options)
        self.jump = jump

    def propose(self, optimizer: Any, objective: Any, attempt: int, random: torch.Generator) -> Proposal:
        return Proposal(
            None if self.jump is None else torch.tensor(self.jump, dtype=objective.space.dtype), own=attempt
        )


def events(escape: Any, steps: int) -> tuple[list[dict[str, Any]], ho.Objective]:
    objective = function(lambda x: 1 + saddle(x), [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=escape)
    found = []
    for _ in range(steps):
        optimizer.step(objective)
        found += optimizer.report.events
    return found, objective


def test_members_come_in_turn_each_with_its_tries() -> None:
    chain = Chain(escapes=[Fixed([1.0, 0.0], tries=2), Fixed(None, tries=3), Fixed([0.0, 0.5], tries=1)], window=2)
    assert chain.tries == 6
    found, objective = events(chain, 10)
    assert [event["event"] for event in found] == [
        "stall", "escape_jump", "escape_undone", "escape_jump", "escape_undone", "no_escape", "escape_jump", "escaped",
    ]  # fmt: skip
    assert [event["attempt"] for event in found[1:]] == [0, 0, 1, 1, 2, 5, 5]
    assert [event["own"] for event in found if "own" in event] == [0, 1, 0, 0]
    assert objective.position().tolist() == [0.0, 0.5]


def test_after_the_last_member_it_waits() -> None:
    found, objective = events(Chain(escapes=[Fixed(None), Fixed([1.0, 0.0], tries=1)], window=1), 4)
    assert [event["event"] for event in found] == ["stall", "no_escape", "escape_jump", "escape_undone"]
    assert objective.position().tolist() == [0.0, 0.0]


def test_a_list_is_a_chain_and_says_who_jumped() -> None:
    found, _ = events([{"name": "perturbation", "radius": 1e-9, "max_radius": 1e-9}, "negative_curvature"], 300)
    by = [event["by"] for event in found if event["event"] == "escape_jump"]
    assert by[:3] == ["perturbation", "perturbation", "negative_curvature"]
    result = ho.minimize(saddle, torch.zeros(2, dtype=torch.float64), escape=["neon", "perturbation"])
    assert result.success


def test_noise_of_a_member_is_added_in_its_window() -> None:
    chain = {"name": "chain", "escapes": [{"name": "noisy_gradient", "noise_steps": 3, "radius": 0.1}], "window": 5}
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("sgd", objective.model.parameters(), lr=0.0, escape=chain)
    places = []
    for _ in range(7):
        optimizer.step(objective)
        places.append(objective.position())
    moved = [float((after - before).norm()) for before, after in itertools.pairwise(places)]
    assert moved[:5] == pytest.approx([0.1, 0.1, 0.1, 0.0, 0.0])


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"escapes": []}, ConfigError, "needs members"),
    ({"escapes": ["none"]}, CombinationError, "plain escapes"),
    ({"escapes": ["chain"]}, CombinationError, "plain escapes"),
    ({"escapes": [{"name": "perturbation", "window": 3}]}, CombinationError, "sets window; set that on the chain"),
    ({"escapes": ["perturb"]}, ConfigError, "perturbation"),
])  # fmt: skip
def test_what_makes_no_chain(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Chain(**options)
