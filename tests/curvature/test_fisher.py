"""Fisher matrices against dense references made of the gradients of single data, in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from hybridopt.curvature import EmpiricalFisher, Fisher, GaussNewton
from hybridopt.objective import Objective
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import derivative, objective_of, probes, reference, relative_error

FLOAT = torch.float64


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(loss: Callable[..., Tensor], count: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    inputs = torch.randn(count, 4, dtype=FLOAT)
    return inputs, torch.randn(count, 3, dtype=FLOAT) if "mse" in str(loss).lower() else torch.randint(0, 3, (count,))


def single_gradients(model: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, targets: Any) -> Tensor:
    parameters = list(model.parameters())
    rows = [derivative(loss(model(x[None]), t[None]), parameters) for x, t in zip(inputs, targets, strict=True)]
    return torch.stack(rows)


LOSSES = pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        (F.cross_entropy, "mean"),
        (nn.CrossEntropyLoss(reduction="sum"), "sum"),
        (F.mse_loss, "mean"),
        (nn.MSELoss(reduction="sum"), "sum"),
    ],
    ids=["cross_entropy", "cross_entropy_sum", "mse", "mse_sum"],
)


@cases(
    "mlp_tanh",
    "mlp_relu_mse",
    "bce",
    "cnn_max_pool",
    "gru",
    "lstm_2_layers",
    "tied",
    "dict_outputs",
    "batch_norm_train",
)
def test_exact_is_the_gauss_newton_matrix(case: Case):
    fisher = Fisher(objective_of(case, FLOAT))
    vectors = probes(fisher)
    assert relative_error(fisher @ vectors, reference(case).gauss_newton @ vectors) < 1e-12
    assert fisher.positive_semidefinite


@LOSSES
def test_monte_carlo_is_the_outer_products_of_its_draws(loss: Callable[..., Tensor], reduction: str):
    model = model_of()
    inputs, targets = batch(loss)
    objective = Objective(model, loss, inputs, targets)
    draw = 3
    fisher = Fisher(objective, kind="monte_carlo", samples=draw, generator=torch.Generator().manual_seed(4))
    # The same draws again, each datum's pulled back alone through an explicit graph.
    generator = torch.Generator().manual_seed(4)
    parameters, wanted = list(model.parameters()), torch.zeros(fisher.n, fisher.n, dtype=FLOAT)
    for _ in range(draw):
        (drawn,) = fisher.likelihood.sample(generator)
        outputs = model(inputs)
        for n in range(len(inputs)):
            row = derivative((outputs[n] * drawn[n]).sum(), parameters, retain_graph=True)
            wanted += row[:, None] * row / draw
    torch.testing.assert_close(fisher.dense(), wanted, rtol=1e-10, atol=1e-13)


@LOSSES
def test_monte_carlo_tends_to_the_exact_matrix(loss: Callable[..., Tensor], reduction: str):
    model = model_of()
    inputs, targets = batch(loss)
    exact = GaussNewton(Objective(model, loss, inputs, targets)).dense()
    samples = 600
    found = Fisher(Objective(model, loss, inputs, targets), kind="monte_carlo", samples=samples).dense()
    assert relative_error(found, exact) < 0.1
    eigenvalues = torch.linalg.eigvalsh(found)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


def test_monte_carlo_error_falls_with_the_root_of_the_samples():
    case = BY_NAME["mlp_tanh"]

    def error(samples: int) -> float:
        seeds = range(6)
        errors = [
            relative_error(
                Fisher(
                    objective_of(case, FLOAT),
                    kind="monte_carlo",
                    samples=samples,
                    generator=torch.Generator().manual_seed(seed),
                ).dense(),
                reference(case).gauss_newton,
            )
            for seed in seeds
        ]
        return sum(e * e for e in errors) ** 0.5

    assert error(200) == pytest.approx(error(2) / 10, rel=0.4)


def test_monte_carlo_is_one_matrix_and_costs_a_gauss_newton_product():
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    state = torch.get_rng_state()
    fisher = Fisher(objective, kind="monte_carlo", samples=5)
    vector = torch.ones(fisher.n, dtype=FLOAT)
    assert torch.equal(fisher @ vector, fisher @ vector)
    assert torch.equal(torch.get_rng_state(), state)
    assert objective.ledger.counts == {"forward": 0, "gradient": 1, "hvp": 0, "ggnvp": 2}


@LOSSES
def test_empirical_is_the_outer_products_of_single_gradients(loss: Callable[..., Tensor], reduction: str):
    model = model_of()
    inputs, targets = batch(loss)
    rows = single_gradients(model, loss, inputs, targets)
    wanted = rows.T @ rows / (len(inputs) if reduction == "mean" else 1)
    fisher = EmpiricalFisher(Objective(model, loss, inputs, targets))
    assert fisher.reduction == reduction
    torch.testing.assert_close(fisher.dense(), wanted, rtol=1e-10, atol=1e-13)
    said = EmpiricalFisher(Objective(model, loss, inputs, targets), reduction="sum").dense()
    torch.testing.assert_close(said, wanted / (len(inputs) if reduction == "mean" else 1), rtol=1e-10, atol=1e-13)


def test_empirical_of_a_recurrent_net_with_time_first():
    objective = objective_of(BY_NAME["gru"], FLOAT)  # inputs (steps, samples, features)
    model, inputs, targets = objective.model, objective.inputs, objective.targets
    parameters = list(model.parameters())
    rows = torch.stack(
        [
            derivative(F.cross_entropy(model(inputs[:, n : n + 1]), targets[n : n + 1]), parameters)
            for n in range(len(targets))
        ]
    )
    torch.testing.assert_close(EmpiricalFisher(objective).dense(), rows.T @ rows / 3, rtol=1e-10, atol=1e-13)


def test_empirical_serves_losses_without_a_likelihood():
    model = model_of()
    inputs, targets = batch(F.mse_loss)

    def loss(z: Tensor, t: Tensor) -> Tensor:
        return (z - t).abs().pow(3).mean()

    targets = torch.randn(6, 3, dtype=FLOAT, generator=torch.Generator().manual_seed(1))
    rows = single_gradients(model, loss, inputs, targets)
    fisher = EmpiricalFisher(Objective(model, loss, inputs, targets))
    torch.testing.assert_close(fisher.dense(), rows.T @ rows / 6, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", [Fisher, EmpiricalFisher])
def test_weight_decay_is_added_as_to_the_gauss_newton_matrix(kind: Any):
    objective = objective_of(BY_NAME["mlp_tanh"], FLOAT)
    parameters = list(objective.model.parameters())
    groups = [{"params": parameters[:1], "weight_decay": 0.5}, {"params": parameters[1:], "weight_decay": 0.0}]
    plain, decayed = (kind(objective.bind(groups, regularize=flag)).dense() for flag in (False, True))
    wanted = torch.zeros(plain.shape[0], dtype=FLOAT)
    wanted[: parameters[0].numel()] = 0.5
    torch.testing.assert_close(decayed - plain, torch.diag(wanted), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("case", "message"),
    [("batch_norm_train", "BatchNorm in train mode"), ("linear_loss", "linear in the model's outputs"),
     ("returns_loss", "needs a model whose outputs")],
)  # fmt: skip
def test_empirical_refuses_what_has_no_single_gradients(case: str, message: str):
    with pytest.raises(CombinationError, match=message):
        EmpiricalFisher(objective_of(BY_NAME[case], FLOAT))


def test_empirical_of_log_probabilities():
    objective = objective_of(BY_NAME["nll_sum"], FLOAT)
    rows = single_gradients(objective.model, objective.loss_fn, objective.inputs, objective.targets)
    torch.testing.assert_close(EmpiricalFisher(objective).dense(), rows.T @ rows, rtol=1e-10, atol=1e-13)


def test_empirical_refuses_a_loss_that_couples_data():
    model, (inputs, targets) = model_of(), batch(F.mse_loss)
    with pytest.raises(CombinationError, match="couples the data"):
        EmpiricalFisher(Objective(model, lambda z, t: (z - z.mean(0)).square().mean(), inputs, targets))


def test_empirical_refuses_an_unclear_reduction():
    model, (inputs, targets) = model_of(), batch(F.mse_loss)
    objective = Objective(model, lambda z, t: F.mse_loss(z, t) + 3.0, inputs, targets)
    assert EmpiricalFisher(objective).reduction == "mean"
    objective = Objective(model, lambda z, t: F.mse_loss(z, t, reduction="sum") + 3.0, inputs, targets)
    with pytest.raises(CombinationError, match="Say reduction"):
        EmpiricalFisher(objective)
    assert EmpiricalFisher(objective, reduction="sum").n == objective.space.n


def test_empirical_where_data_are_not_in_the_first_dimension():
    torch.manual_seed(0)
    model = nn.Linear(2, 3).double()
    inputs, targets = torch.randn(4, 5, 2, dtype=FLOAT), torch.randn(4, 5, 3, dtype=FLOAT)  # steps, data, features
    fisher = EmpiricalFisher(Objective(model, F.mse_loss, inputs, targets, samples=5))
    rows = single_gradients(model, F.mse_loss, inputs.transpose(0, 1), targets.transpose(0, 1))
    torch.testing.assert_close(fisher.dense(), rows.T @ rows / 5, rtol=1e-10, atol=1e-13)

    def fixed(z: Tensor, t: Tensor) -> Tensor:
        return (z - t.reshape(4, 5, 3)).square().mean()

    with pytest.raises(CombinationError, match="does not take every datum twice"):
        EmpiricalFisher(Objective(model, fixed, inputs, targets, samples=5))


def test_options_are_checked():
    objective = objective_of(BY_NAME["mlp_tanh"])
    with pytest.raises(ConfigError, match="kind must be"):
        Fisher(objective, kind="type2")
    with pytest.raises(ConfigError, match="samples"):
        Fisher(objective, kind="monte_carlo", samples=0)
    with pytest.raises(ConfigError, match="reduction"):
        EmpiricalFisher(objective, reduction="none")
    for kind in (Fisher, EmpiricalFisher):
        with pytest.raises(ObjectiveError, match="needs an Objective"):
            kind(nn.Linear(2, 2))
