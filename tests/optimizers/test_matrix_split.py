"""Which parameters are matrices: shapes, embeddings, the last layer, groups that decide themselves; and it is shown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import ConfigError
from tests.optimizers.catalogue import assert_same_state, each, names, run, training

MATRIX = names("muon", "shampoo", "soap")


class Reader(nn.Module):
    """An embedding, a convolution, a weight-normed and a last layer, which may be the embedding's own weight."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.convolution = nn.Conv1d(4, 4, 3, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.convolution(self.embedding(tokens).mT)).mT
        return self.head(self.normed(hidden).mean(dim=1))


def reading(tied: bool = False) -> ho.Objective:
    torch.manual_seed(0)
    return ho.Objective(Reader(tied), nn.functional.cross_entropy, torch.randint(7, (5, 6)), torch.randint(7, (5,)))


def kinds(optimizer: object, objective: ho.Objective) -> dict[str, str]:
    return {row.name: row.reason if row.matrix else f"not: {row.reason}" for row in optimizer.split(objective)}


def test_shapes_and_layers_decide() -> None:
    objective = reading()
    rest = {
        "convolution.weight": "matrix",
        "convolution.bias": "not: vector",
        "normed.bias": "not: vector",
        "normed.parametrizations.weight.original0": "not: vector",  # (4, 1): as many numbers as rows
        "normed.parametrizations.weight.original1": "matrix",
    }
    muon = ho.create("muon", objective.model.parameters())
    assert kinds(muon, objective) == {**rest, "embedding.weight": "not: embedding", "head.weight": "not: last matrix"}
    muon = ho.create("muon", objective.model.parameters(), embeddings="matrix", last="matrix")
    assert kinds(muon, objective) == {**rest, "embedding.weight": "embedding", "head.weight": "last matrix"}
    for name in ("shampoo", "soap"):
        optimizer = ho.create(name, objective.model.parameters())
        assert kinds(optimizer, objective) == {**rest, "embedding.weight": "embedding", "head.weight": "last matrix"}


def test_where_the_head_is_the_embedding_no_other_matrix_is_taken_for_it() -> None:
    objective = reading(tied=True)
    found = kinds(ho.create("muon", objective.model.parameters()), objective)
    assert found["embedding.weight"] == "not: embedding"
    assert found["normed.parametrizations.weight.original1"] == "matrix"
    assert "head.weight" not in found


def test_a_first_layer_that_is_used_again_as_the_last_is_the_last() -> None:
    model = nn.Sequential()
    model.first, model.middle = nn.Linear(4, 4), nn.Linear(4, 4)
    model.last = model.first
    objective = ho.Objective(model, nn.functional.mse_loss, torch.randn(5, 4), torch.randn(5, 4))
    found = kinds(ho.create("muon", model.parameters()), objective)
    assert (found["first.weight"], found["middle.weight"]) == ("not: last matrix", "matrix")


def test_a_part_of_the_model_without_the_last_layer_has_none() -> None:
    problem = training()
    optimizer = ho.create("muon", problem.model[0].parameters())
    assert kinds(optimizer, problem.objective) == {"0.weight": "matrix", "0.bias": "not: vector"}


def test_an_only_matrix_and_the_matrices_of_a_function_are_no_last_layers() -> None:
    model = nn.Linear(4, 3)
    objective = ho.Objective(model, nn.functional.mse_loss, torch.randn(5, 4), torch.randn(5, 3))
    assert kinds(ho.create("muon", model.parameters()), objective)["weight"] == "matrix"
    objective = ho.Objective.from_function(lambda x: x[0].sum() + x[1].sum(), [torch.ones(2, 3), torch.ones(3, 2)])
    optimizer = ho.create("muon", objective.model.parameters())
    assert all(row.matrix for row in optimizer.split(objective))


@each(MATRIX)
def test_groups_decide_for_themselves(method) -> None:
    problem = training()
    first, last = problem.model[0], problem.model[2]
    optimizer = method.create(
        [
            {"params": [first.weight], "rule": "fallback"},
            {"params": [last.weight], "rule": "matrix"},
            {"params": [first.bias, last.bias]},
        ]
    )
    assert kinds(optimizer, problem.objective) == {
        "0.weight": "not: asked for",
        "2.weight": "asked for",
        "0.bias": "not: vector",
        "2.bias": "not: vector",
    }
    run(optimizer, problem, range(2))
    assert "exp_avg" in optimizer.state[first.weight]
    assert "exp_avg" not in optimizer.state[last.weight]
    assert (optimizer.report.matrices, optimizer.report.fallbacks) == (1, 3)
    # A rule that is changed later holds from the next step on.
    optimizer.param_groups[1]["rule"] = "fallback"
    run(optimizer, problem, range(1))
    assert "exp_avg" in optimizer.state[last.weight]


@each(MATRIX)
def test_rules_that_make_no_sense_are_refused(method) -> None:
    with pytest.raises(ConfigError, match=r"rule must be one of 'auto', 'matrix', 'fallback'"):
        method.create([{"params": [nn.Parameter(torch.ones(3, 3))], "rule": "matrx"}])
    shape = () if method.name != "muon" else (3,)
    with pytest.raises(ConfigError, match=r"cannot treat a parameter of shape .*rule='auto'"):
        method.create([{"params": [nn.Parameter(torch.ones(shape))], "rule": "matrix"}])
    with pytest.raises(ConfigError, match=r"fallback_betas must be two numbers"):
        method.create([nn.Parameter(torch.ones(3))], fallback_betas=[0.9, 1.0])


def test_names_are_the_groups_own_where_it_has_some() -> None:
    problem = training()
    optimizer = ho.create("muon", [(f"mine.{name}", p) for name, p in problem.model.named_parameters()])
    assert optimizer.split(problem.objective)[0].name == "mine.0.weight"


def test_the_split_is_described() -> None:
    problem = training()
    text = ho.create("muon", problem.model.parameters()).describe(problem.objective)
    assert text.splitlines() == [
        "0.weight  Muon   (5, 4) (matrix)",
        "0.bias    AdamW  (5,) (vector)",
        "2.weight  AdamW  (3, 5) (last matrix)",
        "2.bias    AdamW  (3,) (vector)",
    ]


@each(MATRIX)
def test_the_split_is_an_event_of_the_first_step_and_of_no_other(method) -> None:
    problem = training()
    optimizer = method.create(problem.model.parameters(), last="fallback")
    optimizer.step(problem.objective)
    event = {"event": "split", "matrices": "0.weight", "fallback": "0.bias, 2.weight, 2.bias"}
    assert optimizer.report.events == [event]
    twin = method.create(problem.model.parameters(), last="fallback")
    twin.load_state_dict(optimizer.state_dict())
    for again in (optimizer, twin):
        again.step(problem.objective)
        assert again.report.events == []


@each(MATRIX)
def test_the_fallback_is_adamw(method) -> None:
    problem, twin = training(dtype=torch.float64), training(dtype=torch.float64)
    options = {"lr": 2e-2, "weight_decay": 0.1, "fallback_rate": 0.5, "fallback_betas": [0.8, 0.9], "rule": "fallback"}
    optimizer = method.create(problem.model.parameters(), **options)
    bare = torch.optim.AdamW(twin.model.parameters(), lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    for step in range(4):
        optimizer.step(problem.batch(step))
        bare.zero_grad()
        twin.batch(step)().backward()
        bare.step()
    assert_same_state(problem.model.state_dict(), twin.model.state_dict())
    for mine, other in zip(problem.model.parameters(), twin.model.parameters(), strict=True):
        assert_same_state(dict(optimizer.state[mine]), dict(bare.state[other]))
