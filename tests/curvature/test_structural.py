"""The matrix of structural damping against an explicit Jacobian of the hidden states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hybridopt.core import CombinationError, ObjectiveError
from hybridopt.curvature.structural import StructurallyDamped
from hybridopt.objective import Objective
from tests.cases import BY_NAME, Apply, Case, cases
from tests.curvature.reference import flat, jacobian, objective_of, probes, reference, relative_error

FLOAT = torch.float64


def reference_of(case: Case) -> Tensor:
    """S of a case, in plain torch: outputs of the recurrent module, row by row."""
    problem = case.build(FLOAT)
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, outputs: Any) -> None:
        out = outputs[0]
        seen.append(out if isinstance(out, Tensor) else out.data)

    for module in problem.model.modules():
        if isinstance(module, nn.RNNBase):
            module.register_forward_hook(keep)
    torch.manual_seed(3)
    problem.outputs()
    J = torch.cat([jacobian(out, problem.parameters()) for out in seen])
    return J.T @ J


@cases("rnn_tanh", "gru", "lstm", "lstm_batch_first", "lstm_bidirectional", "lstm_states")
def test_equals_the_reference(case: Case):
    point = objective_of(case, FLOAT).at(hidden=True)
    samples = point.objective.samples
    operator = StructurallyDamped(point, 0.7)
    vectors = probes(operator)
    wanted = (reference(case).gauss_newton + 0.7 / samples * reference_of(case)) @ vectors
    assert relative_error(operator @ vectors, wanted) < 1e-11
    assert relative_error(point.gauss_newton() @ vectors, reference(case).gauss_newton @ vectors) < 1e-11
    assert relative_error(point.hessian() @ vectors, reference(case).hessian @ vectors) < 1e-11


def layers_by_hand(layers: int) -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for index in range(layers):
            x, _ = getattr(m, f"cell{index}")(x)
        return m.head(x[-1])

    cells = {f"cell{index}": nn.RNN(3 if index else 2, 3) for index in range(layers)}
    return Apply(forward, **cells, head=nn.Linear(3, 2)).double()


def test_all_layers_of_a_stack_count():
    torch.manual_seed(0)
    single = layers_by_hand(2)
    stacked = Apply(lambda m, x: m.head(m.cell(x)[1][-1]), cell=nn.RNN(2, 3, 2), head=nn.Linear(3, 2)).double()
    stacked.load_state_dict(
        {
            **{
                f"cell.{name[:-1]}{index}": value
                for index in range(2)
                for name, value in single.get_submodule(f"cell{index}").state_dict().items()
            },
            **{f"head.{name}": value for name, value in single.head.state_dict().items()},
        }
    )
    x, t = torch.randn(4, 5, 2, dtype=FLOAT), torch.randint(0, 2, (5,))
    products = []
    for model in (single, stacked):
        operator = StructurallyDamped(Objective(model, F.cross_entropy, x, t).at(hidden=True), 1.0)
        products.append(operator @ torch.linspace(-1, 1, operator.n, dtype=FLOAT))
    torch.testing.assert_close(*products)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells(kind: type[nn.RNNCellBase]):
    torch.manual_seed(0)
    seen: list[Tensor] = []

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        state = None
        seen.clear()
        for step in x:
            state = m.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return m.head(seen[-1])

    model = Apply(forward, cell=kind(2, 3), head=nn.Linear(3, 2)).double()
    x, t = torch.randn(3, 5, 2, dtype=FLOAT), torch.randint(0, 2, (5,))
    objective = Objective(model, F.cross_entropy, x, t)
    plain = objective.at().gauss_newton()
    operator = StructurallyDamped(objective.at(hidden=True), 2.0)
    model(x)
    J = torch.cat([jacobian(state, list(model.parameters())) for state in seen])
    vectors = probes(plain)
    assert relative_error(operator @ vectors, plain @ vectors + 2.0 / 5 * J.T @ (J @ vectors)) < 1e-11


def test_packed_sequences():
    torch.manual_seed(0)
    packed = pack_padded_sequence(torch.randn(4, 3, 2, dtype=FLOAT), [4, 2, 1])
    model = Apply(
        lambda m, x: m.head(pad_packed_sequence(m.cell(x)[0])[0].sum(0)), cell=nn.GRU(2, 3), head=nn.Linear(3, 2)
    ).double()
    objective = Objective(model, F.cross_entropy, packed, torch.tensor([0, 1, 1]))
    operator = StructurallyDamped(objective.at(hidden=True), 1.0)
    J = jacobian(model.cell(packed)[0].data, list(model.parameters()))
    vectors = probes(operator)
    wanted = objective.at().gauss_newton() @ vectors + J.T @ (J @ vectors) / 3
    assert relative_error(operator @ vectors, wanted) < 1e-11


def test_a_product_costs_a_gauss_newton_product_and_zero_weight_is_none():
    objective = objective_of(BY_NAME["gru"], FLOAT)
    point = objective.at(hidden=True)
    vector = torch.ones(objective.space.n, dtype=FLOAT)
    assert torch.equal(StructurallyDamped(point, 0.0) @ vector, point.gauss_newton() @ vector)
    assert objective.ledger.counts == {"forward": 0, "gradient": 1, "hvp": 0, "ggnvp": 2}
    matrix = StructurallyDamped(point, 3.0).dense()
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12
    torch.testing.assert_close(matrix, matrix.T)


def test_trainable_parameters_before_and_after_the_layer():
    torch.manual_seed(0)
    model = Apply(
        lambda m, x: m.head(m.cell(m.embed(x))[0][:, -1]),
        embed=nn.Embedding(5, 2), cell=nn.GRU(2, 3, batch_first=True), head=nn.Linear(3, 2),
    ).double()  # fmt: skip
    model.cell.bias_hh_l0.requires_grad_(False)
    x, t = torch.randint(0, 5, (4, 3)), torch.randint(0, 2, (4,))
    objective = Objective(model, F.cross_entropy, x, t)
    operator = StructurallyDamped(objective.at(hidden=True), 1.0)
    J = jacobian(model.cell(model.embed(x))[0], objective.space.parameters)
    vectors = probes(operator)
    wanted = objective.at().gauss_newton() @ vectors + J.T @ (J @ vectors) / 4
    assert relative_error(operator @ vectors, wanted) < 1e-11
    assert flat([None], [model.head.bias]).abs().sum() == 0


def test_what_has_no_hidden_states_is_refused():
    with pytest.raises(CombinationError, match=r"there is no nn\.RNN"):
        StructurallyDamped(objective_of(BY_NAME["mlp_tanh"]).at(hidden=True), 1.0)
    with pytest.raises(CombinationError, match="packed sequences"):
        StructurallyDamped(objective_of(BY_NAME["gru_packed"]).at(hidden=True), 1.0)
    with pytest.raises(CombinationError, match="Structural damping"):
        StructurallyDamped(objective_of(BY_NAME["gru"]).at(), 1.0)
    pieces = objective_of(BY_NAME["mlp_tanh"]).in_micro_batches(2)
    with pytest.raises(ObjectiveError, match="structural damping"):
        pieces.at(hidden=True)
