"""Batches: how many samples they count for, what names them, and that another one costs nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective import Objective
from tests.cases import BY_NAME
from tests.curvature.reference import objective_of


def make(inputs, targets, **options):
    return Objective(nn.Linear(2, 1), F.mse_loss, inputs, targets, **options)


@pytest.mark.parametrize(
    ("inputs", "targets", "samples"),
    [
        pytest.param(torch.zeros(5, 2), torch.zeros(5, 1), 5, id="tensors"),
        pytest.param(torch.zeros(7, 5, 2), torch.zeros(5, 1), 5, id="time-first-inputs"),
        pytest.param(torch.zeros(6, 2), None, 6, id="no-targets"),
        pytest.param((torch.zeros(4, 2), torch.zeros(3)), None, 4, id="tuple"),
        pytest.param({"x": torch.zeros(3, 2)}, {"y": [torch.zeros(8, 1)]}, 8, id="nested"),
        pytest.param(torch.zeros(5, 2), torch.tensor(1.0), 5, id="scalar-target"),
        pytest.param(torch.zeros(5, 2), 1.0, 5, id="number-as-target"),
        pytest.param(None, None, 1, id="nothing"),
    ],
)
def test_samples_are_the_leading_dimension(inputs, targets, samples):
    assert make(inputs, targets).samples == samples


def test_samples_of_a_function_are_one():
    assert Objective.from_function(lambda x: x.sum(), torch.ones(9)).samples == 1


def test_samples_as_given():
    objective = make(torch.zeros(5, 2), torch.zeros(5, 1), samples=3)
    assert objective.samples == 3
    assert objective.with_batch(objective.inputs, objective.targets, samples=2).samples == 2
    assert objective.with_batch(objective.inputs, objective.targets).samples == 5


@pytest.mark.parametrize(
    "empty",
    [
        pytest.param(lambda: make(torch.zeros(0, 2), torch.zeros(0, 1)), id="tensors"),
        pytest.param(lambda: make(torch.zeros(4, 2), torch.zeros(0, 1)), id="targets"),
        pytest.param(lambda: make(torch.zeros(4, 2), torch.zeros(4, 1), samples=0), id="given"),
        pytest.param(
            lambda: make(torch.zeros(4, 2), torch.zeros(4, 1)).with_batch(torch.zeros(0, 2), torch.zeros(0, 1)),
            id="with_batch",
        ),
    ],
)
def test_empty_batches_are_refused(empty):
    with pytest.raises(ObjectiveError, match="batch is empty"):
        empty()


def test_another_batch_is_another_value():
    objective = objective_of(BY_NAME["mlp_tanh"])
    inputs, targets = objective.inputs[:2], objective.targets[:2]
    part = objective.with_batch(inputs, targets)
    wanted = F.cross_entropy(objective.model(inputs), targets)
    assert part.value() == pytest.approx(wanted.item())
    assert part.samples == 2
    assert part.model is objective.model
    assert part.loss_fn is objective.loss_fn


def test_another_batch_shares_everything_else(monkeypatch):
    objective = objective_of(BY_NAME["mlp_tanh"])
    bound = objective.bind([{"params": [objective.model[0].weight], "weight_decay": 2.0}], regularize=True)

    def walked(self):
        raise AssertionError("a new batch must not walk through the model")

    monkeypatch.setattr(nn.Module, "modules", walked)
    monkeypatch.setattr(nn.Module, "named_parameters", walked)
    other = bound.with_batch(bound.inputs, bound.targets)
    assert other.ledger is bound.ledger
    assert other.space is bound.space
    assert other.slots is bound.slots
    assert other.value() == bound.value()
    assert other.bind([{"params": [objective.model[0].weight]}]).space is bound.space


def test_batches_do_not_accumulate():
    objective = objective_of(BY_NAME["mlp_tanh"])
    import weakref

    inputs = objective.inputs.clone()
    watched = weakref.ref(inputs)
    objective.with_batch(inputs, objective.targets).value_and_grad()
    del inputs
    assert watched() is None


def test_keys_name_the_data():
    objective = make(torch.zeros(5, 2), torch.zeros(5, 1))
    assert objective.with_batch(objective.inputs, objective.targets).key == objective.key
    assert objective.bind([{"params": [objective.model.weight]}]).key == objective.key
    others = [
        objective.with_batch(objective.inputs.clone(), objective.targets).key,
        objective.with_batch(objective.inputs, objective.targets.clone()).key,
        objective.with_batch(objective.inputs, None).key,
        make(objective.inputs, objective.targets).key,
    ]
    assert len({objective.key, *others}) == 5
    assert objective.with_batch(torch.ones(2, 2), None, key="mine").key == "mine"
    assert make(torch.zeros(5, 2), None, key="full").key == "full"


def test_a_key_of_another_process_is_never_met_by_chance():
    keys = {make(torch.zeros(1, 2), None).key for _ in range(100)}
    assert len(keys) == 100


def test_tuples_are_positional_and_dicts_are_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(2.0))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.w * a.sum() + b.sum()

    a, b = torch.full((1,), 3.0), torch.full((1,), 5.0)
    for inputs in ((a, b), [a, b], {"a": a, "b": b}, {"b": b, "a": a}):
        assert Objective(Two(), None, inputs).value() == 11.0


def test_a_packed_sequence_is_one_input():
    objective = objective_of(BY_NAME["lstm_packed"])
    problem = BY_NAME["lstm_packed"].build()
    assert objective.value() == pytest.approx(problem.loss_of(problem.outputs()).item())
