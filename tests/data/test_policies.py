"""Data policies: which samples a step sees, and that a checkpoint knows."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import ConfigError
from hybridopt.data import Batches, registry
from hybridopt.tasks import Split

N = 40


def setting(name, size=10, seed=0, **options):
    """A policy on samples that carry their own number, and an objective to draw from."""
    numbers = torch.arange(N, dtype=torch.float64)[:, None]
    batches = Batches(Split(numbers, numbers), size, 5, seed)
    objective = ho.Objective(nn.Linear(1, 1).double(), nn.functional.mse_loss, numbers, numbers)
    return registry.get(name)(batches, **options), objective


def seen(objective):
    return objective.inputs[:, 0].long().tolist()


def test_one_is_the_batches_themselves():
    policy, objective = setting("one")
    for step in range(9):
        inputs, _, key = policy.batches.batch(step)
        drawn = policy.draw(objective, step)
        assert torch.equal(drawn.inputs, inputs)
        assert drawn.key == key
    assert policy.epochs(4) == 1.0


def test_an_epoch_sees_every_sample_once():
    policy, objective = setting("one", size=7)
    numbers = [n for step in range(policy.steps_per_epoch) for n in seen(policy.draw(objective, step))]
    assert len(numbers) == len(set(numbers)) == 35


def test_the_curvature_batch_is_independent_repeatable_and_without_repetition():
    policy, objective = setting("curvature", share=0.5)
    drawn = [policy.draw(objective, step) for step in range(400)]
    for one in drawn:
        assert len(set(seen(one.curvature_batch))) == 5
    assert seen(policy.draw(objective, 3).curvature_batch) == seen(drawn[3].curvature_batch)
    # Independent: a sample of the batch is in the curvature batch as often as any other, 5 times in 40.
    shared = sum(len(set(seen(one)) & set(seen(one.curvature_batch))) for one in drawn) / len(drawn)
    assert shared == pytest.approx(10 * 5 / N, abs=4 * math.sqrt(1.0 / 400))
    counts = torch.tensor([n for one in drawn for n in seen(one.curvature_batch)]).bincount(minlength=N)
    assert counts.min() > 20, "every sample gets its turn (50 expected)"


def test_a_curvature_batch_inside_the_batch():
    policy, objective = setting("curvature", share=0.5, inside=True)
    places = []
    for step in range(50):
        one = policy.draw(objective, step)
        own = seen(one)
        assert set(seen(one.curvature_batch)) <= set(own)
        places += [own.index(n) for n in seen(one.curvature_batch)]
    assert torch.tensor(places).bincount(minlength=10).min() > 8, "from everywhere in the batch (25 expected)"


def test_the_overlap_is_what_the_next_batch_shares():
    policy, objective = setting("overlap", share=0.3)
    for step in range(policy.steps_per_epoch - 1):
        one, following = policy.draw(objective, step), policy.draw(objective, step + 1)
        assert set(seen(one)) & set(seen(following)) == set(seen(one.overlap))
        assert len(seen(one.overlap)) == 3
        assert len(set(seen(one))) == 10


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("curvature", 10, {"share": 5.0}, r"50 samples for curvature, but there are 40\. Use a share up to 4"),
        ("curvature", 10, {"share": 2.0, "inside": True}, "but there are 10 in the batch"),
        ("overlap", "full", {}, "a batch smaller than the data"),
        ("overlap", 2, {"share": 0.1}, "shares 0"),
        ("growing", 10, {"rule": "geometri"}, "Did you mean 'geometric'"),
        ("growing", 10, {"factor": 1.0}, "factor"),
    ],
)
def test_bad_options(name, size, options, message):
    with pytest.raises(ConfigError, match=message):
        setting(name, size=size, **options)


def optimizer_of(objective, **report):
    made = SimpleNamespace(param_groups=[{"params": list(objective.model.parameters())}])
    made.report = type("Report", (dict,), {"__getattr__": dict.__getitem__})(report)
    return made


def test_the_stream_of_a_growing_batch_has_no_gaps():
    policy, objective = setting("growing", rule="geometric", factor=3.0)
    numbers = []
    while policy.size < N:
        drawn = policy.draw(objective, 0)
        numbers += seen(drawn)
        policy.after_step(optimizer_of(objective), drawn)
    for epoch in range(len(numbers) // N):
        assert sorted(numbers[epoch * N : (epoch + 1) * N]) == list(range(N))
    assert policy.draw(objective, 0).key == "full"


def test_geometric_growth_is_by_the_factor_in_an_epoch():
    policy, objective = setting("growing", rule="geometric", factor=2.0, most=1.0)
    while policy.drawn < N:
        policy.after_step(optimizer_of(objective), policy.draw(objective, 0))
    assert policy.size == math.ceil(10 * 2 ** (policy.drawn / N))


def by_hand(policy, drawn, precondition=lambda v: v):
    """The variance of single samples over what the rule allows, from gradients of single parts of the batch."""
    share = drawn.inputs.shape[0] // policy.config.pieces
    rows = []
    for k in range(policy.config.pieces):
        part = slice(k * share, (k + 1) * share)
        loss = nn.functional.mse_loss(drawn.model(drawn.inputs[part]), drawn.targets[part])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(drawn.model.parameters()))]))
    return share, torch.stack(rows)


def test_the_norm_test_by_hand():
    policy, objective = setting("growing", size=16, rule="norm_test", every=1, pieces=4, theta=0.5, factor=100.0)
    drawn = policy.draw(objective, 0)
    share, rows = by_hand(policy, drawn)
    mean = rows.mean(0)
    wanted = share * float(rows.var(0).sum()) / (0.25 * float(mean @ mean))
    assert policy._wanted(optimizer_of(objective), drawn) == pytest.approx(wanted, rel=1e-9)
    event = policy.after_step(optimizer_of(objective), drawn)
    expected = min(N, math.ceil(wanted))
    assert (event["size"] if event else 16) == max(16, expected)


def test_the_inner_product_test_uses_the_matrix_of_the_optimizer():
    policy, objective = setting("growing", size=16, rule="inner_product", every=1, pieces=4, theta=0.1, factor=100.0)
    drawn = policy.draw(objective, 0)
    share, rows = by_hand(policy, drawn)
    scale = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    mean = scale * rows.mean(0)
    products = (scale * rows) @ mean
    wanted = share * float(products.var()) / (0.01 * float(mean @ mean) ** 2)
    optimizer = optimizer_of(objective)
    optimizer.precondition = lambda bound, vector: scale * vector
    assert policy._wanted(optimizer, drawn) == pytest.approx(wanted, rel=1e-9)


def test_equal_samples_never_grow_the_batch():
    policy, objective = setting("growing", size=16, rule="norm_test", every=1, pieces=4)
    ones = torch.ones(16, 1, dtype=torch.float64)
    assert policy.after_step(optimizer_of(objective), objective.with_batch(ones, 5 * ones)) is None


def test_the_step_rule_grows_with_the_fourth_power():
    policy, objective = setting("growing", size=10, rule="step_norm", factor=100.0)
    drawn = policy.draw(objective, 0)
    assert policy.after_step(optimizer_of(objective, step_norm=1.0), drawn) is None
    event = policy.after_step(optimizer_of(objective, step_norm=0.8), drawn)
    assert event["size"] == math.ceil(10 / 0.8**4)


def test_a_test_costs_a_gradient():
    policy, objective = setting("growing", size=16, every=1, pieces=4)
    drawn = policy.draw(objective, 0)
    policy.after_step(optimizer_of(objective), drawn)
    assert objective.ledger.samples["gradient"] == 16


def test_growth_goes_on_from_a_checkpoint():
    def run(split):
        policy, objective = setting("growing", rule="geometric", factor=3.0)
        drawn = []
        for step in range(12):
            if step == split:
                state = policy.state_dict()
                policy, objective = setting("growing", rule="geometric", factor=3.0)
                policy.load_state_dict(state)
            one = policy.draw(objective, step)
            drawn.append(seen(one))
            policy.after_step(optimizer_of(objective), one)
        return drawn

    assert run(None) == run(5)
