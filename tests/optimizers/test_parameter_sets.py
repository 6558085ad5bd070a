"""Any set of parameters: frozen, tied, shared, parametrized, a subset, several dtypes, groups; bad ones are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hybridopt as ho
from tests.optimizers.catalogue import METHODS, REGISTERED, Method, each, names, run, training


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def old_weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": weight_normed,
    "old weight_norm": old_weight_normed,
}


@each(METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_falls_in_parametrized_models(method: Method, shape: str) -> None:
    problem = training(SHAPES[shape], dtype=torch.float64)
    storage = {name: p.data_ptr() for name, p in problem.model.named_parameters()}
    optimizer = method.create(problem.model.parameters())
    losses = run(optimizer, problem, range(6), full=True)
    assert problem.objective.value() < losses[0]
    now = {name: p.data_ptr() for name, p in problem.model.named_parameters()}
    assert now == storage, "a parameter's storage was replaced"


@each(METHODS)
def test_named_parameters_keep_their_names(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.named_parameters())
    run(optimizer, problem, range(3), full=True)
    wanted = [name for name, _ in problem.model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == wanted


@each(REGISTERED)
def test_a_trainable_loss_module_is_optimized_too(method: Method) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs * self.scale.exp(), targets)

    problem, loss = training(dtype=torch.float64), Scaled()
    objective = ho.Objective(problem.model, loss, problem.inputs, problem.targets)
    optimizer = method.create([*problem.model.parameters(), *loss.parameters()])
    losses = [float(optimizer.step(objective)) for _ in range(5)]
    assert objective.value() < losses[0]
    assert loss.scale.item() != 0


@each(names("adam", "soap", "newton_cg", "lookahead"))
def test_options_of_a_group_are_kept_as_plain_numbers(method: Method, tmp_path: Path) -> None:
    problem = training()
    group = {"params": problem.model.parameters(), "lr": np.float32(0.25)}
    if method.name == "adam":
        group["betas"] = (np.float64(0.5), 0.75)
    optimizer = method.create([group])
    assert optimizer.param_groups[0]["lr"] == 0.25
    run(optimizer, problem, range(2), full=True)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


@each(names("lbfgs", "newton_cg", "trust_newton_cg", "switch"))
def test_groups_from_generators_reach_every_member(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create({"params": layer.parameters()} for layer in (problem.model[0], problem.model[2]))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    before = problem.parameters()
    run(optimizer, problem, range(4), full=True)
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert not torch.equal(parameter, was)
