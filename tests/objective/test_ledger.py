"""The ledger's counts are the number of calls that really happened, whatever was asked."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.curvature import GaussNewton, Hessian
from hybridopt.objective import WEIGHTS, Ledger, Objective
from tests.cases import Case, cases
from tests.curvature.reference import objective_of


class Meter:
    """Counts forward passes of the model and runs of the autograd engine."""

    def __init__(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards = self.engine = 0
        model.register_forward_pre_hook(self._forward)
        run = torch.autograd._engine_run_backward

        def counted(*args, **options):
            self.engine += 1
            return run(*args, **options)

        monkeypatch.setattr(torch.autograd, "_engine_run_backward", counted)

    def _forward(self, *_):
        self.forwards += 1


@cases("mlp_tanh", "batch_norm_train", "dropout_train", "lstm", "dict_outputs")
def test_counts_are_real_calls(case: Case, monkeypatch: pytest.MonkeyPatch):
    objective = objective_of(case)
    meter = Meter(objective.model, monkeypatch)
    x = objective.position()
    for _ in range(2):
        objective.value()
        objective.value(x)
    assert (meter.forwards, meter.engine) == (4, 0)
    assert objective.ledger.counts == {"forward": 4, "gradient": 0, "hvp": 0, "ggnvp": 0}

    objective.value_and_grad()
    objective.value_and_grad(x)
    point = objective.at()
    assert (meter.forwards, meter.engine) == (7, 3)
    assert objective.ledger.counts == {"forward": 4, "gradient": 3, "hvp": 0, "ggnvp": 0}

    hessian, gauss_newton = point.hessian(), point.gauss_newton()
    assert (meter.forwards, meter.engine) == (7, 3), "operators of one point share its graph"
    hessian @ x
    assert meter.engine == 4, "one run of the engine is one Hessian product"
    gauss_newton @ x
    assert meter.engine == 7, "a Gauss-Newton product is J v, H_L (J v) and J' of it"
    hessian @ torch.stack([x, x], 1)
    assert (meter.forwards, meter.engine) == (7, 9)
    assert objective.ledger.counts == {"forward": 4, "gradient": 3, "hvp": 3, "ggnvp": 1}

    Hessian(objective), GaussNewton(objective)
    assert meter.forwards == 9
    assert objective.ledger.counts["gradient"] == 5


def test_free_calls():
    model = nn.Linear(2, 1)
    objective = Objective(model, F.mse_loss, torch.randn(4, 2), torch.randn(4, 1))
    objective.position()
    objective.commit(objective.position())
    objective.renew()
    objective.adopt()
    objective.bind([{"params": list(model.parameters())}])
    assert sum(objective.ledger.counts.values()) == 0


def test_every_view_of_an_objective_pays_into_one_ledger():
    model = nn.Linear(2, 1)
    ledger = Ledger()
    objective = Objective(model, F.mse_loss, torch.randn(4, 2), torch.randn(4, 1), ledger=ledger)
    objective.value()
    objective.with_batch(torch.randn(3, 2), torch.randn(3, 1)).value()
    objective.bind([{"params": [model.bias]}]).value()
    assert objective.ledger is ledger
    assert ledger.counts["forward"] == 3
    assert ledger.samples["forward"] == 11


def test_samples_weigh_every_kind():
    objective = Objective(nn.Linear(2, 1), F.mse_loss, torch.randn(4, 2), torch.randn(4, 1), samples=10)
    x = objective.position()
    objective.value()
    point = objective.at()
    point.hessian() @ torch.stack([x, x, x], 1)
    point.gauss_newton() @ x
    assert objective.ledger.samples == {"forward": 10, "gradient": 10, "hvp": 30, "ggnvp": 10}


def test_masked_steps_cost_nothing():
    """What `work` counts is charged for every kind of call, on every view of the objective, and for nothing else."""
    model = nn.Linear(2, 1)
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])

    def loss(outputs, targets):
        return (targets * outputs[..., 0] ** 2).sum() / mask.sum()

    inputs = torch.randn(4, 3, 2)
    objective = Objective(model, loss, inputs, mask, work=lambda inputs, targets: targets.sum())
    objective.value()
    point = objective.at()
    point.hessian() @ torch.eye(3)
    point.gauss_newton() @ torch.ones(3)
    assert objective.ledger.samples == {"forward": 6, "gradient": 6, "hvp": 18, "ggnvp": 6}
    assert (objective.samples, objective.work, type(objective.work)) == (4, 6, int), "statistics keep to the samples"

    def charged(view):
        before = dict(view.ledger.samples)
        view.bind([{"params": list(model.parameters())}]).at().hessian() @ torch.ones(3)
        return tuple(view.ledger.samples[kind] - before[kind] for kind in ("gradient", "hvp"))

    assert charged(objective.with_batch(inputs[:2], mask[:2])) == (4, 4)
    assert charged(objective.with_curvature_batch(inputs[2:3], mask[2:3])) == (6 + 2, 2)
    assert charged(objective.in_micro_batches(2, reduction="sum")) == (6 + 6, 6), "its products build the graphs again"


def test_gradient_equivalents_by_the_nominal_weights():
    ledger = Ledger()
    for kind, samples, columns in (("forward", 30, 1), ("gradient", 60, 1), ("hvp", 15, 2), ("ggnvp", 45, 1)):
        ledger.pay(kind, samples, columns)
    wanted = (30 / 3 + 60 + 2 * 30 + 4 / 3 * 45) / 60
    assert ledger.gradient_equivalents(60) == pytest.approx(wanted)
    assert dict(WEIGHTS).items() == {
        ("gradient", 1.0),
        ("hvp", 2.0),
        ("forward", 1 / 3),
        ("ggnvp", 4 / 3),
    }


def test_an_epoch_of_gradients_costs_one():
    model = nn.Linear(2, 1)
    inputs, targets = torch.randn(10, 2), torch.randn(10, 1)
    objective = Objective(model, F.mse_loss, inputs, targets)
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
        objective.with_batch(inputs[part], targets[part]).value_and_grad()
    assert objective.ledger.gradient_equivalents(10) == pytest.approx(1.0)


def test_counts_are_a_copy():
    ledger = Ledger()
    ledger.counts["forward"] = 5
    assert ledger.counts["forward"] == 0


def test_state_goes_through_json():
    ledger = Ledger()
    ledger.pay("hvp", 7, columns=2)
    ledger.pay("forward", 3)
    other = Ledger()
    other.pay("gradient", 1)
    other.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert other.counts == ledger.counts
    assert other.samples == ledger.samples
    other.pay("hvp", 1)
    assert ledger.counts["hvp"] == 2


def test_state_is_a_copy():
    ledger = Ledger()
    state = ledger.state_dict()
    ledger.pay("forward", 1)
    assert state["calls"]["forward"] == 0


def test_unknown_kinds_are_refused():
    with pytest.raises(KeyError):
        Ledger().pay("guess", 1)


def test_repr_shows_the_counts():
    ledger = Ledger()
    ledger.pay("hvp", 7)
    assert repr(ledger) == "Ledger(forward=0, gradient=0, hvp=1, ggnvp=0)"
