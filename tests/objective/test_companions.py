"""Curvature on other samples than the gradient, and the samples that two batches share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hybridopt as ho
from hybridopt.core import ObjectiveError, StaleOperatorError


def parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(12, 4, dtype=torch.float64), torch.randint(0, 3, (12,))
    return model, inputs, targets


def test_gradient_on_the_batch_and_products_on_the_curvature_batch():
    model, x, t = parts()
    whole = ho.Objective(model, F.cross_entropy, x, t)
    other = ho.Objective(model, F.cross_entropy, x[:3], t[:3])
    split = whole.with_curvature_batch(x[:3], t[:3])
    vector = torch.randn(whole.space.n, dtype=torch.float64)
    point, reference = split.at(), other.at()
    assert point.value == whole.value()
    torch.testing.assert_close(point.gradient, whole.value_and_grad()[1])
    for name in ("hessian", "gauss_newton"):
        torch.testing.assert_close(getattr(point, name)() @ vector, getattr(reference, name)() @ vector)
    torch.testing.assert_close(
        ho.curvature.Fisher(split, kind="exact") @ vector, ho.curvature.Fisher(other, kind="exact") @ vector
    )
    torch.testing.assert_close(
        ho.curvature.EmpiricalFisher(split) @ vector, ho.curvature.EmpiricalFisher(other) @ vector
    )
    assert split.value(split.position()) == whole.value(), "acceptance tests stay on the batch"


def test_the_ledger_counts_both():
    model, x, t = parts()
    split = ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:3], t[:3])
    point = split.at()
    assert split.ledger.samples["gradient"] == 12, "no graph for products that nobody asked for"
    point.hessian() @ torch.zeros(split.space.n, dtype=torch.float64)
    assert split.ledger.samples == {"forward": 0, "gradient": 15, "hvp": 3, "ggnvp": 0}


def test_weight_decay_belongs_to_both():
    model, x, t = parts()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.5}]
    split = ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:3], t[:3]).bind(groups, regularize=True)
    plain = ho.Objective(model, F.cross_entropy, x[:3], t[:3])
    vector = torch.ones(split.space.n, dtype=torch.float64)
    torch.testing.assert_close(split.at().hessian() @ vector, plain.at().hessian() @ vector + 0.5 * vector)


@pytest.mark.parametrize("name", ["newton_cg", "hessian_free", "trust_newton_cg", "saddle_free_newton", "sophia"])
def test_an_optimizer_with_the_batch_itself_for_curvature_takes_the_same_steps(name):
    ends = []
    for split in (False, True):
        model, x, t = parts()
        objective = ho.Objective(model, F.cross_entropy, x, t)
        if split:
            objective = objective.with_curvature_batch(x, t)
        optimizer = ho.create(name, model.parameters())
        for _ in range(3):
            optimizer.step(objective)
        ends.append(objective.position())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-11)


def test_random_layers_and_statistics_see_one_function_each():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    _, x, t = parts()
    split = ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:6], t[:6])
    dense = split.at().hessian().dense()
    torch.testing.assert_close(dense, dense.T, rtol=1e-9, atol=1e-12)
    before = model[1].running_mean.clone()
    assert split.value() == split.value()
    assert torch.equal(model[1].running_mean, before)


def test_products_at_a_left_or_released_point_raise():
    model, x, t = parts()
    split = ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:3], t[:3])
    vector = torch.zeros(split.space.n, dtype=torch.float64)
    hessian = split.at().hessian()
    split.commit(split.position() + 1)
    with pytest.raises(StaleOperatorError):
        hessian @ vector
    with split.at() as point:
        pass
    with pytest.raises(StaleOperatorError):
        point.hessian() @ vector


def test_another_batch_has_no_companions():
    model, x, t = parts()
    objective = ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:3], t[:3]).with_overlap(x[:2], t[:2])
    assert objective.curvature_batch.samples == 3
    assert objective.overlap.samples == 2
    other = objective.with_batch(x[:5], t[:5])
    assert other.curvature_batch is None
    assert other.overlap is None


def test_an_empty_curvature_batch_is_refused():
    model, x, t = parts()
    with pytest.raises(ObjectiveError, match="empty"):
        ho.Objective(model, F.cross_entropy, x, t).with_curvature_batch(x[:0], t[:0])
