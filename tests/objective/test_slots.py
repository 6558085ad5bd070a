"""Trial tensors get to every place where a module reads a parameter, and to no other."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective, Slots
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import objective_of


def parameter_ids(model: nn.Module) -> list[int]:
    return [id(p) for m in model.modules() for p in m._parameters.values()]


@cases("shared_module", "tied", "listed", "lstm", "parametrized", "weight_norm_old")
def test_registered_parameters_are_the_same_objects_afterwards(case: Case):
    objective = objective_of(case)
    before = parameter_ids(objective.model)
    objective.value(2 * objective.position())
    objective.value_and_grad(2 * objective.position())
    objective.at()
    assert parameter_ids(objective.model) == before
    if case.name == "shared_module":
        assert objective.model.first is objective.model.second
        assert isinstance(objective.model.first.weight, nn.Parameter)
    if case.name == "tied":
        assert objective.model[0].weight is objective.model[3].weight


def test_tied_parameters_are_one():
    objective = objective_of(BY_NAME["tied"])
    assert objective.space.n == sum(p.numel() for p in objective.model.parameters())
    x = torch.zeros(objective.space.n)
    assert objective.value(x) == pytest.approx(torch.tensor(5.0).log().item())


def test_a_trial_reaches_every_place():
    # At zero every model whose parameters are all weights and biases of linear layers gives equal logits.
    for name, classes in (
        ("shared_module", 3),
        ("listed", 3),
        ("mlp_tanh", 3),
        ("lstm", 2),
        ("gru_packed", 2),
    ):
        objective = objective_of(BY_NAME[name])
        wanted = torch.tensor(float(classes)).log().item()
        assert objective.value(torch.zeros(objective.space.n)) == pytest.approx(wanted), name


def test_recurrent_layers_do_not_keep_trial_tensors():
    model = nn.LSTM(2, 3)
    objective = Objective(model, lambda z: z[0].square().sum(), torch.randn(4, 2, 2))
    x = 2 * objective.position()
    watched = weakref.ref(x)
    objective.value(x)
    objective.value_and_grad(x)
    del x
    assert watched() is None
    copy.deepcopy(model)
    assert all(w is getattr(model, n) for w, n in zip(model._flat_weights, model._flat_weights_names, strict=True))


def test_recurrent_layers_do_not_rebuild_their_weights_in_a_trial(monkeypatch):
    # On CUDA that would move the parameters to other memory, twice for every trial.
    model = nn.GRU(2, 3)
    objective = Objective(model, lambda z: z[0].square().sum(), torch.randn(4, 2, 2))
    rebuilt = []
    monkeypatch.setattr(nn.GRU, "_init_flat_weights", lambda self: rebuilt.append(1))
    objective.value(2 * objective.position())
    objective.value()
    assert not rebuilt


def test_recurrent_layers_that_were_converted_meanwhile():
    # `.to()` gives a recurrent layer a new list of weights.
    model = nn.LSTM(2, 3)
    objective = Objective(model, lambda z: z[0].square().sum() + 1, torch.randn(4, 2, 2))
    objective.value()
    model.to("cpu")
    assert objective.value(torch.zeros(objective.space.n)) == 1.0


def test_only_the_bound_parameters_are_replaced():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    slots = Slots([model], list(model[1].parameters()))
    with slots.hold([torch.zeros(1, 3), torch.zeros(1)]):
        assert isinstance(model[0].weight, nn.Parameter)
        assert not isinstance(model[1].weight, nn.Parameter)
        assert model(torch.ones(1, 2)).item() == 0
    assert isinstance(model[1].weight, nn.Parameter)


def test_nested_holds_are_undone_in_order():
    model = nn.Linear(1, 1, bias=False)
    slots = Slots([model], list(model.parameters()))
    original = model.weight
    with slots.hold([torch.full((1, 1), 2.0)]):
        with pytest.raises(ObjectiveError, match="replaced"), slots.hold([torch.full((1, 1), 3.0)]):
            pass
        assert model.weight.item() == 2
    assert model.weight is original


def assign(model: nn.Module) -> None:
    model.weight = nn.Parameter(torch.zeros(1, 2))


def load(model: nn.Module) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def parametrization(model: nn.Module) -> None:
    parametrize.register_parametrization(model, "weight", nn.Identity())
    model.parametrizations.weight.original = nn.Parameter(torch.zeros(1, 2))


@pytest.mark.parametrize("replace", [assign, load, parametrization])
def test_a_replaced_parameter_is_an_error_and_no_zero_gradient(replace):
    model = nn.Linear(2, 1)
    objective = Objective(model, F.mse_loss, torch.randn(4, 2), torch.randn(4, 1))
    objective.value()
    replace(model)
    for evaluate in (
        objective.value_and_grad,
        objective.at,
        lambda: objective.value(objective.position()),
        lambda: objective.value_and_grad(objective.position()),
    ):
        with pytest.raises(ObjectiveError, match="replaced"):
            evaluate()


def test_a_parameter_that_moved_to_another_name():
    # Pruning keeps the parameter under a new name: derivatives at the model stay right, trials cannot.
    model = nn.Linear(2, 1)
    objective = Objective(model, F.mse_loss, torch.randn(4, 2), torch.randn(4, 1))
    objective.value()
    prune.random_unstructured(model, "weight", 1)
    fresh = Objective(model, F.mse_loss, objective.inputs, objective.targets)
    wanted = dict(zip(map(id, fresh.space.parameters), fresh.space.views(fresh.value_and_grad()[1]), strict=True))
    found = objective.space.views(objective.value_and_grad()[1])
    for parameter, gradient in zip(objective.space.parameters, found, strict=True):
        assert torch.equal(gradient, wanted[id(parameter)])
    with pytest.raises(ObjectiveError, match="replaced"):
        objective.value(objective.position())


def test_unused_parameters_have_zero_gradient_and_curvature():
    objective = objective_of(BY_NAME["unused"])
    spare = sum(p.numel() for p in objective.model.spare.parameters())
    point = objective.at()
    assert (point.gradient[-spare:] == 0).all()
    assert ((point.hessian() @ torch.ones(objective.space.n))[-spare:] == 0).all()
    assert (objective.value_and_grad(objective.position())[1][-spare:] == 0).all()


def test_foreign_parameters_are_refused():
    model, other = nn.Linear(2, 1), nn.Linear(3, 5)
    objective = Objective(model, F.mse_loss, torch.randn(4, 2), torch.randn(4, 1))
    with pytest.raises(ObjectiveError, match=r"1 of the optimizer's parameters \(shapes \(5, 3\)\)"):
        objective.bind([{"params": [model.weight, other.weight]}])
    with pytest.raises(ObjectiveError, match="deep copy"):
        objective.bind([{"params": list(copy.deepcopy(model).parameters())}])


def test_slots_hold_no_reference_cycle():
    model = nn.LSTM(2, 3)
    objective = Objective(model, lambda z: z[0].square().sum(), torch.randn(4, 2, 2))
    objective.value(objective.position())
    watched = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model, objective
        assert watched() is None
    finally:
        gc.enable()
