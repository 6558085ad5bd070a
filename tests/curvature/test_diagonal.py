"""Diagonals and squared gradients of single data against dense matrices, for every kind of layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from hybridopt.curvature import EmpiricalFisher, GaussNewton, Hessian
from hybridopt.curvature.diagonal import Diagonal
from hybridopt.curvature.empirical_fisher import data_gradients
from hybridopt.curvature.squares import squared_gradients
from hybridopt.objective import Objective
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import objective_of, reference, relative_error

FLOAT = torch.float64


@cases(
    "mlp_tanh", "mlp_relu_mse", "bce", "cnn_max_pool", "conv1d", "conv2d_strided", "conv2d_frozen", "layer_norm",
    "embedding", "tied", "shared_module", "frozen", "unused", "dropout_train", "gru_2_layers", "lstm_bidirectional",
    "weight_norm", "parametrized", "dict_outputs", "batch_norm_train", "batch_norm_eval", "nll_sum", "mixed_dtypes",
)  # fmt: skip
def test_exact_of_the_gauss_newton_matrix(case: Case):
    dtype = torch.float32 if case.mixed else FLOAT
    found = Diagonal(objective_of(case, dtype), of="gauss_newton").values
    assert relative_error(found, reference(case).gauss_newton.diagonal()) < (1e-5 if case.mixed else 1e-11)


@cases(
    "mlp_tanh", "cnn_max_pool", "conv2d_strided", "layer_norm", "tied", "shared_module", "dropout_train",
    "lstm", "rnn_tanh", "nll_sum", "dict_outputs",
)  # fmt: skip
def test_exact_of_the_empirical_fisher_matrix(case: Case):
    objective = objective_of(case, FLOAT)
    wanted = EmpiricalFisher(objective).dense().diagonal()
    assert relative_error(Diagonal(objective, of="empirical_fisher").values, wanted) < 1e-11


@cases("mlp_tanh", "cnn_max_pool", "gru", "shared_module")
def test_layers_cost_a_gradient_for_each_column(case: Case):
    objective = objective_of(case, FLOAT)
    diagonal = Diagonal(objective, of="empirical_fisher")
    assert objective.ledger.counts == {"forward": 0, "gradient": 2, "hvp": 0, "ggnvp": 0}
    assert (diagonal.values >= 0).all()


def test_of_the_hessian():
    case = BY_NAME["mlp_tanh"]
    found = Diagonal(objective_of(case, FLOAT), of="hessian")
    torch.testing.assert_close(found.values, reference(case).hessian.diagonal())
    torch.testing.assert_close(found.dense(), torch.diag(reference(case).hessian.diagonal()))


def test_of_the_fisher_matrix_is_that_of_the_gauss_newton_matrix():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    assert torch.equal(Diagonal(objective, of="fisher").values, Diagonal(objective, of="gauss_newton").values)


@pytest.mark.parametrize(
    ("of", "method", "samples"),
    [("gauss_newton", "hutchinson", 400), ("hessian", "hutchinson", 900), ("fisher", "monte_carlo", 400)],
)
def test_estimates(of: str, method: str, samples: int):
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    found = Diagonal(objective, of=of, method=method, samples=samples).values
    wanted = (Hessian if of == "hessian" else GaussNewton)(objective).dense().diagonal()
    assert relative_error(found, wanted) < 0.25
    again = Diagonal(objective, of=of, method=method, samples=samples).values
    assert torch.equal(found, again)


def test_xdiag_is_exact_on_a_gauss_newton_matrix_of_low_rank():
    # Six data of three outputs: its rank is 12.
    case = BY_NAME["mlp_tanh"]
    found = Diagonal(objective_of(case, FLOAT), of="gauss_newton", method="xdiag", samples=28).values
    assert relative_error(found, reference(case).gauss_newton.diagonal()) < 1e-8


def test_monte_carlo_is_unbiased_where_the_formula_and_the_signs_serve():
    case = BY_NAME["layer_norm"]  # its weight and bias are estimated
    objective = objective_of(case, FLOAT)
    values = torch.stack(
        [
            Diagonal(
                objective, of="fisher", method="monte_carlo", samples=2, generator=torch.Generator().manual_seed(seed)
            ).values
            for seed in range(60)
        ]
    )
    error = (values.mean(0) - reference(case).gauss_newton.diagonal()).abs()
    assert (error < 5 * values.std(0) / 60**0.5 + 1e-12).all()


def test_what_is_estimated_is_said():
    objective = objective_of(BY_NAME["layer_norm"], FLOAT)
    point = objective.at()
    _, columns, _ = data_gradients(point)
    values, estimated = squared_gradients(point, [columns], draws=600)
    names = [name for name, _ in objective.model.named_parameters()]
    assert [names[place] for place in estimated] == ["1.weight", "1.bias"]
    assert relative_error(values, EmpiricalFisher(objective).dense().diagonal()) < 0.1


def test_pieces_of_shared_layers_add_up(monkeypatch):
    from hybridopt.curvature import squares

    objective = objective_of(BY_NAME["cnn_max_pool"], FLOAT)
    whole = Diagonal(objective, of="empirical_fisher").values
    monkeypatch.setattr(squares, "_ENTRIES", 1)
    torch.testing.assert_close(Diagonal(objective, of="empirical_fisher").values, whole)


def test_weight_decay_is_in_it():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    groups = [{"params": list(objective.model.parameters()), "weight_decay": 0.5}]
    plain = Diagonal(objective, of="gauss_newton").values
    decayed = Diagonal(objective.bind(groups, regularize=True), of="gauss_newton").values
    torch.testing.assert_close(decayed, plain + 0.5)


def test_many_outputs_take_products_instead():
    # More outputs than parameters: columns would cost more than products.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 3, bias=False)).double()
    wide = Objective(
        model, lambda z, t: F.mse_loss(z.repeat(1, 1), t), torch.randn(5, 1, dtype=FLOAT), torch.randn(5, 3).double()
    )
    torch.testing.assert_close(Diagonal(wide).values, GaussNewton(wide).dense().diagonal())


def test_the_inverse_is_damped():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    diagonal = Diagonal(objective, of="hessian")
    vector = torch.ones(diagonal.n, dtype=FLOAT)
    torch.testing.assert_close(diagonal.inverse_apply(vector, 0.1), 1 / (diagonal.values.abs() + 0.1))


def test_senseless_options_are_refused():
    objective = objective_of(BY_NAME["mlp_tanh"])
    for options in ({"of": "kfac"}, {"method": "guess"}, {"method": "hutchinson", "samples": 0}):
        with pytest.raises(ConfigError):
            Diagonal(objective, **options)
    with pytest.raises(CombinationError, match="hutchinson"):
        Diagonal(objective, of="hessian", method="monte_carlo")
    with pytest.raises(CombinationError, match="couples the data"):
        Diagonal(objective_of(BY_NAME["batch_norm_train"]), of="fisher", method="monte_carlo")
    with pytest.raises(ObjectiveError):
        Diagonal(nn.Linear(1, 1))
    with pytest.raises(CombinationError):
        Diagonal(Objective.from_function(lambda x: (x**2).sum(), torch.ones(3)), of="gauss_newton")


def test_blocks_of_single_parameters():
    case = BY_NAME["mlp_tanh"]
    hessian = Hessian(objective_of(case, FLOAT))
    sizes = hessian.point.space.sizes
    torch.testing.assert_close(hessian.block(0).dense(), reference(case).hessian[: sizes[0], : sizes[0]])
    torch.testing.assert_close(hessian.block(-1).dense(), reference(case).hessian[-sizes[-1] :, -sizes[-1] :])
    with pytest.raises(ConfigError, match="no block"):
        hessian.block(len(sizes))
