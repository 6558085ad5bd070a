"""Residual points drawn anew: by residual, repeatable, and known to a checkpoint."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
import hybridopt.tasks as tasks
from hybridopt.core import ConfigError
from hybridopt.data import Batches, registry
from hybridopt.tasks.pinn import INTERIOR


def setting(**options):
    task = tasks.create("pinn_reaction", points=200, width=4, layers=1)
    train = task.splits(0).train.to(None, torch.float64)
    batches = Batches(train, "full", 5, 0)
    policy = registry.get("resample")(batches, every=3, **options)
    policy.attach(task)
    model = task.model(0).double()
    return policy, ho.Objective(model, task.loss, train.inputs, train.targets), task


def interior(objective):
    rows = objective.inputs
    return rows[rows[:, 2] == INTERIOR][:, :2]


def test_points_change_every_so_many_steps_and_the_rest_stays():
    policy, objective, _ = setting(rule="uniform")
    drawn = [policy.draw(objective, step) for step in range(7)]
    assert drawn[0].key == drawn[2].key
    assert drawn[2].key != drawn[3].key
    assert torch.equal(drawn[0].inputs, drawn[2].inputs)
    assert not torch.equal(interior(drawn[2]), interior(drawn[3]))
    assert len(interior(drawn[3])) == len(interior(drawn[0])) == 200
    assert len(interior(drawn[3]).unique(dim=0)) == 200, "without replacement"
    assert torch.equal(drawn[3].inputs[200:], drawn[0].inputs[200:])
    assert drawn[3].inputs.dtype == torch.float64


def test_points_come_where_the_residual_is_large():
    policy, objective, task = setting(rule="residual", power=4.0, floor=0.0)
    size = task.candidate_residuals(objective.model).abs()
    chosen = policy._choose(objective, 1)
    expected = float((size**5).mean() / (size**4).mean())  # of one draw in proportion to |r|^4
    assert expected > 1.4 * float(size.mean())
    assert float(size[chosen].mean()) == pytest.approx(expected, rel=0.05)
    even, _, _ = setting(rule="uniform")
    assert float(size[even._choose(objective, 1)].mean()) == pytest.approx(float(size.mean()), rel=0.15)


def test_residuals_are_paid():
    policy, objective, task = setting()
    policy.draw(objective, 3)
    assert objective.ledger.samples["forward"] == task.candidates


def test_a_checkpoint_knows_the_points():
    policy, objective, _ = setting()
    before = policy.draw(objective, 4)
    state = policy.state_dict()
    other, fresh, _ = setting()
    with torch.no_grad():
        for parameter in fresh.model.parameters():
            parameter.add_(1.0)  # other residuals now: the points must come from the state
    other.load_state_dict(state)
    assert torch.equal(other.draw(fresh, 5).inputs, before.inputs)


def test_other_tasks_are_refused():
    policy, _, _ = setting()
    with pytest.raises(ConfigError, match="not adding_rnn"):
        policy.attach(tasks.create("adding_rnn"))
