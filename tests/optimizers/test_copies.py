"""Optimizers survive deepcopy and pickle, and their state keeps its dtypes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import hybridopt as ho
from tests.optimizers.catalogue import METHODS, Method, assert_same_state, each, names, run, training

ESCAPE = {"name": "perturbation", "stall_window": 2, "stall_tolerance": 10.0, "window": 3}


@each(METHODS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_with_an_escape_has_the_same_state_config_and_future(method: Method, how: str) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), escape=ESCAPE)
    run(optimizer, problem, range(6))
    pair = (problem.model, optimizer)
    model, twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(twin) is type(optimizer) or type(twin).__name__ == type(optimizer).__name__
    assert twin.config == optimizer.config
    assert twin.escape is not None
    assert_same_state(twin.state_dict(), optimizer.state_dict())
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(p) for group in twin.param_groups for p in group["params"]} == own
    objective = ho.Objective(model, problem.objective.loss_fn, problem.inputs, problem.targets, key="all")
    losses = [float(optimizer.step(problem.objective)) for _ in range(3)]
    assert [float(twin.step(objective)) for _ in range(3)] == losses


@each(METHODS)
def test_a_report_can_be_copied_and_pickled(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters())
    optimizer.step(problem.objective)
    for twin in (copy.deepcopy(optimizer.report), pickle.loads(pickle.dumps(optimizer.report))):
        assert twin.as_dict() == optimizer.report.as_dict()
        assert twin.events == optimizer.report.events


@each(names("adam", "lbfgs", "newton_cg", "hessian_free", "saddle_free_newton"))
def test_loading_does_not_cast_state_that_is_not_a_parameters(method: Method) -> None:
    problem = training(dtype=torch.float32)
    optimizer = method.create(problem.model.parameters())
    optimizer.step(problem.objective)
    extra = {"sum": torch.ones(3, dtype=torch.float64), "count": torch.tensor(7), "steps": 5, "name": "x"}
    optimizer.state["extra"] = extra
    optimizer.load_state_dict(optimizer.state_dict())
    assert_same_state(optimizer.state["extra"], extra)


def test_step_counters_and_float64_accumulators_keep_their_dtype_on_float32_parameters() -> None:
    problem = training(dtype=torch.float32)
    optimizer = ho.create("lbfgs", problem.model.parameters())
    run(optimizer, problem, range(3))
    loaded = ho.create("lbfgs", problem.model.parameters())
    loaded.load_state_dict(optimizer.state_dict())
    pairs = loaded.memory["pairs"]
    assert isinstance(pairs["count"], int)
    assert pairs["steps"].dtype == torch.float32
    assert all(isinstance(value, float) for value in pairs["curvatures"])


def test_generator_states_stay_on_the_cpu_as_bytes() -> None:
    problem = training()
    optimizer = ho.create("sgd", problem.model.parameters(), escape=ESCAPE)
    run(optimizer, problem, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    random = optimizer.state["escape"]["random"]
    assert random.dtype == torch.uint8
    assert random.device.type == "cpu"
