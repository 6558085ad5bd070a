"""Any set of parameters: frozen, tied, shared, parametrized, a subset, several dtypes, groups; bad ones are refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hybridopt as ho
from hybridopt.core import ObjectiveError
from tests.optimizers.catalogue import METHODS, REGISTERED, Method, each, names, plain, run, training


class Tied(nn.Module):
    """A linear autoencoder whose decoder is the encoder's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x) @ self.encoder.weight))


class Shared(nn.Module):
    """One submodule under two names and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.again(torch.tanh(self.first(x)))))


def frozen() -> nn.Module:
    model = plain()
    model[0].weight.requires_grad_(False)
    return model


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def old_weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "frozen": frozen,
    "tied": Tied,
    "shared": Shared,
    "weight_norm": weight_normed,
    "old weight_norm": old_weight_normed,
}


@each(METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_falls_and_structure_is_kept(method: Method, shape: str) -> None:
    problem = training(SHAPES[shape], dtype=torch.float64)
    kept = {name: p.detach().clone() for name, p in problem.model.named_parameters() if not p.requires_grad}
    storage = {name: p.data_ptr() for name, p in problem.model.named_parameters()}
    optimizer = method.create(problem.model.parameters())
    losses = run(optimizer, problem, range(6), full=True)
    assert problem.objective.value() < losses[0]
    now = dict(problem.model.named_parameters())
    assert {name: p.data_ptr() for name, p in now.items()} == storage, "a parameter's storage was replaced"
    for name, was in kept.items():
        assert torch.equal(now[name], was), f"{name} is frozen"
        assert now[name].grad is None
    if shape == "tied":
        assert problem.model.decoder.weight is problem.model.encoder.weight
    if shape == "shared":
        assert problem.model.again is problem.model.first


@each(METHODS)
def test_a_subset_of_the_model_moves_alone(method: Method) -> None:
    problem = training(dtype=torch.float64)
    before = problem.model[2].weight.detach().clone()
    optimizer = method.create(problem.model[0].parameters())
    losses = run(optimizer, problem, range(5), full=True)
    assert problem.objective.value() < losses[0]
    assert torch.equal(problem.model[2].weight, before)
    assert problem.model[2].weight.grad is None


# torch.optim.LBFGS goes on along directions that it remembers for the frozen parameter.
@each([method for method in METHODS if method.name != "torch:LBFGS"])
def test_freezing_and_thawing_between_steps(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create(problem.model.parameters())
    weight = problem.model[0].weight
    run(optimizer, problem, range(3), full=True)
    weight.requires_grad_(False)
    before = weight.detach().clone()
    run(optimizer, problem, range(3), full=True)
    assert torch.equal(weight, before), "it moved while it was frozen"
    weight.requires_grad_(True)
    run(optimizer, problem, range(3), full=True)
    assert not torch.equal(weight, before), "it did not move again"


@each([method for method in METHODS if method.name != "torch:LBFGS"])
def test_param_groups_of_which_one_is_empty(method: Method) -> None:
    problem = training(dtype=torch.float64)
    groups = [
        {"params": problem.model[0].parameters()},
        {"params": []},
        {"params": list(problem.model[2].parameters())},
    ]
    optimizer = method.create(groups)
    losses = run(optimizer, problem, range(5), full=True)
    assert problem.objective.value() < losses[0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 0, 2]


@each(METHODS)
def test_named_parameters_keep_their_names(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.named_parameters())
    run(optimizer, problem, range(3), full=True)
    wanted = [name for name, _ in problem.model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == wanted


@each(METHODS)
def test_no_parameters_at_all(method: Method) -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        method.create([])


@each(METHODS)
def test_no_parameter_that_requires_a_gradient(method: Method) -> None:
    problem = training()
    optimizer = method.create(problem.model.requires_grad_(False).parameters())
    with pytest.raises(ObjectiveError, match=r"no parameter to optimize.*requires_grad"):
        optimizer.step(problem.objective)


@each(METHODS)
def test_parameters_of_another_model(method: Method) -> None:
    problem = training()
    optimizer = method.create(copy.deepcopy(problem.model).parameters())
    with pytest.raises(ObjectiveError, match="do not belong to the objective's model"):
        optimizer.step(problem.objective)


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


@each(REGISTERED)
def test_parameters_in_two_precisions(method: Method) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(4, 5), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.high(torch.tanh(self.low(x.float())).double())

    problem = training("plain")
    model = Mixed()
    objective = ho.Objective(model, nn.functional.cross_entropy, problem.inputs, problem.targets)
    optimizer = method.create(model.parameters())
    losses = [float(optimizer.step(objective)) for _ in range(5)]
    assert objective.value() < losses[0]
    assert model.low.weight.dtype == torch.float32
    assert model.high.weight.grad.dtype == torch.float64


@each(names("lbfgs", "newton_cg", "trust_newton_cg", "switch"))
def test_groups_from_generators_reach_every_member(method: Method) -> None:
    problem = training(dtype=torch.float64)
    optimizer = method.create({"params": layer.parameters()} for layer in (problem.model[0], problem.model[2]))
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    before = problem.parameters()
    run(optimizer, problem, range(4), full=True)
    for parameter, was in zip(problem.model.parameters(), before, strict=True):
        assert not torch.equal(parameter, was)
