"""Models that are no plain function of their parameters: one sentence before anything has moved, or right values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hybridopt as ho
from hybridopt.core import ObjectiveError
from tests.cases import BY_NAME, Apply, CubeOnce


class OutOfReach(nn.Module):
    """Keeps its weight where no trial can put another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.kept = (self.layer.weight,)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.tanh(x), self.kept[0], self.layer.bias)


def closure() -> nn.Module:
    layer = nn.Linear(3, 3)
    weight = layer.weight
    return Apply(lambda m, x: nn.functional.linear(torch.tanh(x), weight, m.a.bias), a=layer)


def once() -> nn.Module:
    return Apply(lambda m, x: m.b(CubeOnce.apply(m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 3))


def reentrant() -> nn.Module:
    return Apply(lambda m, x: m.b(checkpoint(m.a, m.c(x), use_reentrant=True)),
                 a=nn.Linear(3, 4), b=nn.Linear(4, 3), c=nn.Linear(3, 3))  # fmt: skip


def recurrent_checkpoint() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(checkpoint(lambda y: m.a(y)[0], x[:, None], use_reentrant=False)[:, -1])

    return Apply(forward, a=nn.GRU(3, 3, batch_first=True), b=nn.Linear(3, 3))


def indices(layer: nn.Module) -> nn.Module:
    return Apply(lambda m, x: m.b(m.a(x.abs().long().clamp(max=3)).flatten(1)), a=layer, b=nn.Linear(6, 3))


MODELS = {
    "tuple": (OutOfReach, r"its own parameter \(weight\) from elsewhere.*Read it from the attribute"),
    "closure": (closure, r"its own parameter \(weight\) from elsewhere"),
    "max_norm": (lambda: indices(nn.Embedding(4, 2, max_norm=0.5)), r"Embedding has max_norm.*Leave the option out"),
    "by_freq": (lambda: indices(nn.Embedding(4, 2, scale_grad_by_freq=True)), "scale_grad_by_freq"),
    "reentrant": (reentrant, r"use_reentrant=False.*in_micro_batches"),
    "script": (lambda: torch.jit.script(nn.Linear(3, 3)), r"ScriptModule.*Python module"),
    "lazy": (lambda: nn.LazyLinear(3), r"lazy layer.*Call the model once"),
    "meta": (lambda: nn.Linear(3, 3, device="meta"), r"meta device.*to_empty"),
}
ONLY_CURVATURE = {
    "once": (once, r"once_differentiable.*gradients only"),
    "recurrent": (recurrent_checkpoint, r"recurrent layers under it.*in_micro_batches"),
    "bag": (lambda: Apply(lambda m, x: m.b(m.a(x.abs().long().clamp(max=3))),
                          a=nn.EmbeddingBag(4, 2), b=nn.Linear(2, 3)), "no second derivative"),
}  # fmt: skip


def refused(model: nn.Module, name: str, words: str) -> None:
    inputs, targets = torch.randn(6, 3), torch.randint(0, 3, (6,))
    objective = ho.Objective(model, nn.functional.cross_entropy, inputs, targets)
    before = [] if words.startswith(("lazy", "meta")) else [p.detach().clone() for p in model.parameters()]
    optimizer = ho.create(name, model.parameters())
    with pytest.raises(ObjectiveError, match=words) as error:
        optimizer.step(objective)
    assert "\n" not in str(error.value)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=bool(before)))


@pytest.mark.parametrize("name", ["lbfgs", "newton_cg"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_cannot_be_searched(model: str, name: str) -> None:
    make, words = MODELS[model]
    refused(make(), name, words)


@pytest.mark.parametrize("model", ONLY_CURVATURE)
def test_what_has_no_curvature(model: str) -> None:
    make, words = ONLY_CURVATURE[model]
    refused(make(), "newton_cg", words)
    inputs, targets = torch.randn(6, 3), torch.randint(0, 3, (6,))
    objective = ho.Objective(make(), nn.functional.cross_entropy, inputs, targets)
    optimizer = ho.create("lbfgs", objective.model.parameters())
    start = objective.value()
    for _ in range(3):
        optimizer.step(objective)
    assert objective.value() < start


@pytest.mark.parametrize("make", [OutOfReach, closure, once, lambda: indices(nn.Embedding(4, 2, max_norm=0.5))])
def test_first_order_steps_need_none_of_that(make: Callable[[], nn.Module]) -> None:
    model = make()
    objective = ho.Objective(model, nn.functional.cross_entropy, torch.randn(6, 3), torch.randint(0, 3, (6,)))
    optimizer = ho.create("adam", model.parameters(), lr=1e-2)
    losses = [float(optimizer.step(objective)) for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "lion", "prodigy", "lbfgs", "kfac", "muon"])
def test_sparse_gradients_are_as_good_as_dense_ones(name: str) -> None:
    ends = []
    for sparse in (True, False):
        problem = BY_NAME["sparse_embedding"].build(written_out=not sparse)
        optimizer = ho.create(name, problem.model.parameters())
        objective = ho.Objective(problem.model, problem.loss_fn, problem.inputs, problem.targets, key="all")
        for _ in range(2):
            optimizer.step(objective)
        ends.append((objective.position(), float(optimizer.report.grad_norm)))
        assert problem.model[0].sparse is sparse
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_a_sparse_method_gets_sparse_gradients() -> None:
    problem = BY_NAME["sparse_embedding"].build()
    optimizer = ho.create("torch:SparseAdam", problem.model[0].parameters())
    optimizer.step(ho.Objective(problem.model, problem.loss_fn, problem.inputs, problem.targets))
    assert problem.model[0].weight.grad.is_sparse
    dense = problem.model[0].weight.grad.to_dense()
    assert float(optimizer.report.grad_norm) == pytest.approx(float(dense.norm()), rel=1e-6)


@pytest.mark.parametrize("name", ["lbfgs", "newton_cg", "gauss_newton", "trust_newton_cg"])
@pytest.mark.parametrize("case", ["energy", "energy_by_functorch", "vmapped_convolution", "checkpointed"])
def test_such_models_are_trained(case: str, name: str) -> None:
    problem = BY_NAME[case].build(torch.float64)
    objective = ho.Objective(problem.model, problem.loss_fn, problem.inputs, problem.targets, key="all")
    optimizer = ho.create(name, problem.model.parameters())
    start = objective.value()
    for _ in range(4):
        optimizer.step(objective)
    assert objective.value() < start


@pytest.mark.parametrize("name", ["sgd", "lbfgs", "newton_cg", "kfac"])
def test_reentrant_checkpointing_before_any_parameter_is_no_missing_gradient(name: str) -> None:
    # Torch passes such a part by: its parameters would never move, and nothing would say so.
    model = Apply(lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=True)), a=nn.Linear(3, 4), b=nn.Linear(4, 3))
    objective = ho.Objective(model, nn.MSELoss(), torch.ones(5, 3, requires_grad=True), torch.zeros(5, 3))
    with pytest.raises(ObjectiveError, match="use_reentrant=False"):
        ho.create(name, model.parameters()).step(objective)
    model.a.requires_grad_(False)
    ho.create(name, model.b.parameters()).step(objective)
