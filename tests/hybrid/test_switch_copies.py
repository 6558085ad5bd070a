"""A switch between any two of torch's methods can be copied and saved after the switch, whatever it handed over."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

import hybridopt as ho
from hybridopt.testing.problems import run, training

PAIRS = [
    ("adam", "momentum"),
    ("momentum", "adam"),
    ("adam", "rmsprop"),
    ("rmsprop", "adamw"),
    ("adagrad", "adam"),
    ("adam", "lion"),
    ("adafactor", "nadam"),
    ("nesterov", "radam"),
    ("adamax", "lbfgs"),
    ("lbfgs", "adam"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("hand_over", [True, False])
def test_after_the_switch(first: str, second: str, hand_over: bool) -> None:
    def make(problem: Any) -> Any:
        options = {"first": first, "second": second, "at_step": 2, "hand_over": hand_over}
        return ho.create("switch", problem.model.parameters(), **options)

    problem = training()
    optimizer = make(problem)
    run(optimizer, problem, range(4), full=True)
    twins = [copy.deepcopy((problem.model, optimizer)), pickle.loads(pickle.dumps((problem.model, optimizer)))]
    other = training()
    loaded = make(other)
    file = io.BytesIO()
    torch.save((problem.model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    for part, state in zip((other.model, loaded), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    twins.append((other.model, loaded))
    twins.append(copy.deepcopy((other.model, loaded)))
    losses = run(optimizer, problem, range(2), full=True)
    for model, twin in twins:
        assert twin.active.family == optimizer.active.family
        objective = ho.Objective(model, problem.objective.loss_fn, problem.inputs, problem.targets, key="all")
        assert [float(twin.step(objective)) for _ in range(2)] == losses
