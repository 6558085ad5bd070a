"""An objective in micro-batches is the objective: same values, gradients, products and steps, in bounded memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hybridopt as ho
from hybridopt.core import ObjectiveError, StaleOperatorError
from hybridopt.objective.memory import graph_bytes

SIZES = [1, 3, 5, 7, 100]


def mlp(dtype=torch.float64, dropout=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3)).to(dtype)
    return ho.Objective(model, F.cross_entropy, torch.randn(7, 4, dtype=dtype), torch.randint(0, 3, (7,)))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_everything_equals_the_whole_batch(size):
    whole = mlp()
    pieces = whole.in_micro_batches(size)
    n = whole.space.n
    vector, matrix = torch.randn(n, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    x = whole.position() + 0.1
    assert pieces.value() == pytest.approx(whole.value(), rel=1e-13)
    assert pieces.value(x) == pytest.approx(whole.value(x), rel=1e-13)
    close(pieces.value_and_grad(x)[1], whole.value_and_grad(x)[1])
    close(pieces().detach(), whole().detach())
    a, b = pieces.at(), whole.at()
    assert a.value == pytest.approx(b.value, rel=1e-13)
    close(a.gradient, b.gradient)
    for name in ("hessian", "gauss_newton"):
        ours, reference = getattr(a, name)(), getattr(b, name)()
        close(ours @ vector, reference @ vector)
        close(ours @ matrix, reference @ matrix)
        assert ours.positive_semidefinite == reference.positive_semidefinite


def test_a_sum_over_samples():
    whole = mlp()
    whole = ho.Objective(whole.model, lambda z, t: F.cross_entropy(z, t, reduction="sum"), whole.inputs, whole.targets)
    pieces = whole.in_micro_batches(3, reduction="sum")
    close(pieces.value_and_grad()[1], whole.value_and_grad()[1])


def test_weight_decay_is_added_once():
    whole = mlp()
    groups = [{"params": list(whole.model.parameters()), "weight_decay": 0.7}]
    bound, pieces = whole.bind(groups, regularize=True), whole.in_micro_batches(2).bind(groups, regularize=True)
    vector = torch.randn(bound.space.n, dtype=torch.float64)
    assert pieces.value() == pytest.approx(bound.value(), rel=1e-13)
    assert pieces.at().value == pytest.approx(bound.at().value, rel=1e-13)
    close(pieces.at().gradient, bound.at().gradient)
    close(pieces.at().hessian() @ vector, bound.at().hessian() @ vector)


@pytest.mark.parametrize("name", ["adam", "lbfgs", "newton_cg", "trust_newton_cg", "hessian_free"])
def test_an_optimizer_takes_the_same_steps(name):
    runs = []
    for size in (None, 3):
        objective = mlp()
        optimizer = ho.create(name, objective.model.parameters())
        seen = objective if size is None else objective.in_micro_batches(size)
        losses = [float(optimizer.step(seen)) for _ in range(4)]
        runs.append((losses, objective.position()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-8)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-6, atol=1e-8)


def test_random_layers_are_one_function():
    pieces = mlp(dropout=0.5).in_micro_batches(2)
    assert pieces.value() == pieces.value()
    dense = pieces.at().hessian().dense()
    torch.testing.assert_close(dense, dense.T, rtol=1e-10, atol=1e-12)


def test_the_ledger_shows_the_graphs_that_were_built_again():
    pieces = mlp().in_micro_batches(3)
    hessian = pieces.at().hessian()
    assert pieces.ledger.samples == {"forward": 0, "gradient": 7, "hvp": 0, "ggnvp": 0}
    hessian @ torch.randn(hessian.n, 2, dtype=torch.float64)
    assert pieces.ledger.samples == {"forward": 0, "gradient": 14, "hvp": 14, "ggnvp": 0}


def test_a_left_point_raises():
    pieces = mlp().in_micro_batches(3)
    point = pieces.at()
    hessian = point.hessian()
    pieces.commit(pieces.position() + 1)
    with pytest.raises(StaleOperatorError):
        hessian @ torch.zeros(hessian.n, dtype=torch.float64)
    point = pieces.at()
    point.release()
    with pytest.raises(StaleOperatorError):
        point.kinks()


def test_another_batch_stays_in_pieces():
    whole = mlp()
    other = whole.in_micro_batches(2).with_batch(whole.inputs[:5], whole.targets[:5])
    assert len(other.pieces) == 3
    assert other.value() == pytest.approx(whole.with_batch(whole.inputs[:5], whole.targets[:5]).value(), rel=1e-13)


def test_batch_norm_in_train_mode_warns_and_in_eval_mode_is_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    objective = ho.Objective(model, F.mse_loss, torch.randn(6, 3).double(), torch.randn(6, 1).double())
    with pytest.warns(UserWarning, match="BatchNorm in train mode"):
        objective.in_micro_batches(2)
    model.eval()
    assert objective.in_micro_batches(2).value() == pytest.approx(objective.value(), rel=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either size"),
        ({"size": 2, "memory_budget": 1e6}, "either size"),
        ({"size": 0}, "at least 1 sample"),
        ({"size": 2, "reduction": "max"}, "'mean' or 'sum'"),
        ({"memory_budget": 100.0}, "too small"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ObjectiveError, match=message):
        mlp().in_micro_batches(**options)


def test_a_batch_without_a_first_dimension_is_refused():
    objective = ho.Objective.from_function(lambda x: (x**2).sum(), torch.ones(3))
    with pytest.raises(ObjectiveError, match="first dimension"):
        objective.in_micro_batches(1)


def wide(layer=nn.Tanh):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), layer(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), layer(), nn.Flatten()
    )
    model = nn.Sequential(*model, nn.Linear(8 * 25, 10))
    return ho.Objective(model, F.cross_entropy, torch.randn(256, 1, 14, 14), torch.randint(0, 10, (256,)))


def peak(action):
    """Most bytes allocated at once during an action, beyond those before it, from torch's own allocation events."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("layer", [nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_a_memory_budget_bounds_a_product(kind, layer):
    budget = 4e6
    pieces = wide(layer).in_micro_batches(memory_budget=budget)
    assert 1 < len(pieces.pieces) < 256
    vector = torch.ones(pieces.space.n)

    def product():
        getattr(pieces.at(), kind)() @ vector

    product()
    vectors = 8 * 4 * pieces.space.n
    assert peak(product) < budget + vectors
    # The whole batch takes more than the larger budget, or there would be nothing to bound.
    assert graph_bytes(wide(layer)) > 4e6


def test_a_roomy_budget_keeps_the_graph():
    pieces = wide().in_micro_batches(memory_budget=1e9)
    assert len(pieces.pieces) == 1
    assert type(pieces.at()) is ho.objective.Point
