"""Stochastic L-BFGS: pairs by product, overlap and the same batch, against formulas on a quadratic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hybridopt as ho
from hybridopt.core import CombinationError


class Quadratic(nn.Module):
    """Mean over samples of half (w - c_i)' A_i (w - c_i): every batch has its own Hessian."""

    def __init__(self, n=4):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n, dtype=torch.float64))

    def forward(self, matrices):
        return torch.einsum("i,sij,j->s", self.weight, matrices, self.weight) / 2


def data(samples=8, n=4):
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(samples, n, n, dtype=torch.float64, generator=generator)
    matrices = roots @ roots.mT + 0.5 * torch.eye(n, dtype=torch.float64)
    model = Quadratic(n)
    return model, matrices, ho.Objective(model, lambda losses: losses.mean(), matrices)


def test_pairs_by_product_are_those_of_the_paper():
    model, matrices, objective = data()
    optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=0.01, every=3)
    curved = objective.with_curvature_batch(matrices[:2])
    visited = []
    for _ in range(9):
        optimizer.step(curved)
        visited.append(model.weight.detach().clone())
    means = [torch.stack(visited[k : k + 3]).mean(0) for k in (0, 3, 6)]
    steps, changes = optimizer._pairs(curved.bind(optimizer.param_groups)).pairs()
    hessian = matrices[:2].mean(0)
    for k in range(2):
        torch.testing.assert_close(steps[k], means[k + 1] - means[k])
        torch.testing.assert_close(changes[k], hessian @ (means[k + 1] - means[k]))
    assert objective.ledger.calls["hvp"] == 2


def test_pairs_on_the_overlap():
    model, matrices, objective = data()
    optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=0.01, pairs="overlap")
    before = model.weight.detach().clone()
    optimizer.step(objective.with_overlap(matrices[5:]))
    step = model.weight.detach() - before
    steps, changes = optimizer._pairs(objective.bind(optimizer.param_groups)).pairs()
    torch.testing.assert_close(steps[0], step)
    torch.testing.assert_close(changes[0], matrices[5:].mean(0) @ step)
    assert objective.ledger.samples["gradient"] == 8 + 3 + 3


def test_pairs_on_the_same_batch_and_the_direction():
    model, matrices, objective = data()
    optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=0.1, pairs="same_batch")
    hessian = matrices.mean(0)
    optimizer.step(objective)
    x = model.weight.detach().clone()
    bound = objective.bind(optimizer.param_groups)
    steps, changes = optimizer._pairs(bound).pairs()
    torch.testing.assert_close(changes[0], hessian @ steps[0])
    direction = optimizer.precondition(bound, hessian @ x)
    optimizer.step(objective)
    torch.testing.assert_close(model.weight.detach(), x - 0.1 * direction)


def test_an_overlap_must_be_there():
    model, _, objective = data()
    optimizer = ho.create("stochastic_lbfgs", model.parameters(), pairs="overlap")
    before = model.weight.detach().clone()
    with pytest.raises(CombinationError, match="run with data=overlap"):
        optimizer.step(objective)
    assert torch.equal(model.weight, before)


def test_the_longest_step():
    model, _, objective = data()
    optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=10.0, max_step=0.05)
    before = model.weight.detach().clone()
    optimizer.step(objective)
    assert float((model.weight.detach() - before).norm()) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("steps", "options"), [(250, {"pairs": "hessian", "every": 5}), (200, {"pairs": "same_batch"})]
)
def test_it_beats_gradient_descent_of_the_best_rate_on_a_skewed_problem(steps, options):
    """Mini-batches of a least-squares problem with condition number 1e4, at no higher cost."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -2, 10, dtype=torch.float64)
    inputs = torch.randn(200, 10, dtype=torch.float64, generator=generator) * scales
    targets = inputs @ (1 / scales)[:, None]

    def end(name, steps, **options):
        model = nn.Linear(10, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
        optimizer = ho.create(name, model.parameters(), **options)
        for step in range(steps):
            rows = torch.arange(step * 50, step * 50 + 50) % 200
            optimizer.step(objective.with_batch(inputs[rows], targets[rows]))
        return objective.ledger.gradient_equivalents(50), objective.value()

    best = min(end("sgd", 400, lr=lr)[1] for lr in (0.03, 0.1, 0.3, 1.0))
    cost, ours = end("stochastic_lbfgs", steps, lr=0.3, **options)
    assert cost <= 400
    assert ours < 0.5 * best


def test_a_step_taken_up_again_is_the_same_step(tmp_path):
    def run(split):
        model, matrices, objective = data()
        optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=0.05, every=2)
        for step in range(9):
            if step == split:
                torch.save((optimizer.state_dict(), model.state_dict()), tmp_path / "saved.pt")
                saved, weights = torch.load(tmp_path / "saved.pt", weights_only=True)
                model, matrices, objective = data()
                model.load_state_dict(weights)
                optimizer = ho.create("stochastic_lbfgs", model.parameters(), lr=0.05, every=2)
                optimizer.load_state_dict(saved)
            optimizer.step(objective.with_curvature_batch(matrices[step % 4 : step % 4 + 3]))
        return model.weight.detach()

    assert torch.equal(run(None), run(5))
