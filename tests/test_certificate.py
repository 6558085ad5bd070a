"""The certificate against dense eigenvalues: never "second_order_stationary" at a saddle, never "saddle" elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.certificate import Certificate, certify
from tests.cases import CubeOnce

EPS = 1e-4


def matrix_with(values: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = values.numel()
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = basis * values @ basis.T
    return (matrix + matrix.T) / 2


def certificate_of(matrix: Tensor, seed: int = 0, **options: Any) -> Certificate:
    start = torch.zeros(matrix.shape[0], dtype=matrix.dtype)
    objective = ho.Objective.from_function(lambda x: x @ matrix @ x / 2, start)
    return certify(objective, generator=torch.Generator().manual_seed(seed), **{"eps_H": EPS, **options})


def spectrum(n: int, lowest: float, spread: float, seed: int) -> Tensor:
    """The lowest eigenvalue as given, the others above, over some decades."""
    generator = torch.Generator().manual_seed(seed)
    others = abs(lowest) + spread ** torch.rand(n - 1, generator=generator, dtype=torch.float64)
    return torch.cat([torch.tensor([lowest], dtype=torch.float64), others])


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e5])
@pytest.mark.parametrize("lowest", [-1.0, -1e-2, -2e-4])
def test_a_saddle_is_never_called_stationary_of_second_order(lowest: float, spread: float) -> None:
    for n in (2, 7, 40):
        for seed in range(4):
            result = certificate_of(matrix_with(spectrum(n, lowest, spread, seed), seed), seed)
            assert result.verdict == "saddle", (n, seed, result)
            assert lowest * 1.0001 - 1e-9 <= result.lambda_min_est < -EPS, (n, seed, result)
            assert not result.degenerate


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e5])
@pytest.mark.parametrize("lowest", [0.0, 1e-5, 1e-3, 1.0])
def test_without_negative_curvature_there_is_no_saddle(lowest: float, spread: float) -> None:
    for n in (2, 7, 40):
        for seed in range(3):
            result = certificate_of(matrix_with(spectrum(n, lowest, spread, seed), seed), seed)
            assert result.verdict == "second_order_stationary", (n, seed, result)
            assert result.degenerate == (lowest <= EPS), (n, seed, result)
            assert result.lambda_min_est >= lowest - 1e-8


def test_the_estimate_is_a_rayleigh_quotient_with_its_residual() -> None:
    matrix = matrix_with(spectrum(12, -0.5, 10.0, 3), 3)
    result = certificate_of(matrix)
    values = torch.linalg.eigvalsh(matrix)
    assert result.lambda_min_est >= float(values[0]) - 1e-12
    assert float((values - result.lambda_min_est).abs().min()) <= result.residual + 1e-9
    assert result.as_dict() == dict(result)
    assert result["verdict"] == "saddle"
    assert "verdict" in result
    assert "verdikt" not in result


@pytest.mark.slow
def test_failures_stay_within_delta() -> None:
    # Hard cases: one eigenvalue just below the threshold under a crowd just above it, and few products.
    for delta in (0.3, 0.05):
        wrong = total = 0
        for seed in range(400):
            values = torch.cat([torch.tensor([-3 * EPS]), torch.linspace(0.5, 1.0, 59)]).double()
            result = certificate_of(matrix_with(values, seed), seed, delta=delta)
            wrong += result.verdict == "second_order_stationary"
            total += 1
        assert wrong <= delta * total + 3 * math.sqrt(delta * total)


def test_a_low_confidence_is_quoted_and_may_be_wrong_but_not_often() -> None:
    wrong = 0
    values = torch.cat([torch.tensor([-3 * EPS]), torch.linspace(0.5, 1.0, 39)]).double()
    for seed in range(40):
        result = certificate_of(matrix_with(values, seed), seed, delta=0.3)
        assert result.delta == 0.3
        wrong += result.verdict == "second_order_stationary"
    assert wrong <= 0.3 * 40 + 3 * math.sqrt(0.3 * 0.7 * 40)


def test_too_few_products_are_inconclusive_and_not_a_success() -> None:
    matrix = matrix_with(spectrum(40, 1e-3, 1e4, 0), 0)
    result = certificate_of(matrix, max_products=5)
    assert result.verdict == "inconclusive"
    assert result.products <= 5
    assert "5 products bound the smallest eigenvalue by" in result.reason


def test_a_negative_direction_found_first_is_not_lost_by_looking_closer() -> None:
    # The second run, for more digits, is content with a thousandth of the spectrum: here far more than the answer.
    values = torch.cat([torch.logspace(0, 6, 60, dtype=torch.float64), torch.tensor([-0.1], dtype=torch.float64)])
    for seed in range(6):
        assert certificate_of(torch.diag(values), seed).verdict == "saddle"


@pytest.mark.parametrize(
    ("name", "formula", "verdict", "degenerate"),
    [
        ("monkey saddle", lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, "second_order_stationary", True),
        ("quartic minimum", lambda x: (x**4).sum(), "second_order_stationary", True),
        ("quartic maximum", lambda x: -(x**4).sum(), "second_order_stationary", True),
        ("valley", lambda x: x[0] ** 2 + 0 * x[1], "second_order_stationary", True),
        ("flat", lambda x: (0 * x).sum(), "second_order_stationary", True),
        ("minimum", lambda x: (x**2).sum(), "second_order_stationary", False),
        ("saddle", lambda x: x[0] ** 2 - x[1] ** 2, "saddle", False),
        ("maximum", lambda x: -(x**2).sum(), "saddle", False),
    ],
)
def test_degenerate_points_say_so(name: str, formula: Any, verdict: str, degenerate: bool) -> None:
    objective = ho.Objective.from_function(formula, torch.zeros(2, dtype=torch.float64))
    result = certify(objective, eps_H=EPS, generator=torch.Generator().manual_seed(0))
    assert (result.verdict, result.degenerate) == (verdict, degenerate), name
    assert ("higher derivatives decide" in result.reason) == degenerate


@pytest.mark.parametrize(
    ("layer", "kink"),
    [(nn.ReLU(), "Relu"), (nn.LeakyReLU(), "LeakyRelu"), (nn.MaxPool1d(2), "MaxPool"), (nn.Hardtanh(), "Hardtanh")],
)
def test_models_with_kinks_are_inconclusive(layer: nn.Module, kink: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.LazyLinear(2))
    model(torch.randn(5, 3))
    objective = ho.Objective(model, nn.functional.cross_entropy, torch.randn(5, 3), torch.randint(0, 2, (5,)))
    result = certify(objective, eps_H=EPS)
    assert result.verdict == "inconclusive"
    assert "not twice differentiable everywhere" in result.reason
    assert kink in result.reason
    assert result.products == 0
    assert math.isnan(result.lambda_min_est)


def test_a_function_that_is_differentiable_once_is_inconclusive() -> None:
    # torch.autograd.grad would leave the curvature of the cube out without a word.
    objective = ho.Objective.from_function(lambda x: (CubeOnce.apply(x) * (2 - x)).sum(), torch.tensor([1.5]).double())
    result = certify(objective, eps_H=EPS)
    assert result.verdict == "inconclusive"
    assert "a function that is differentiable once" in result.reason


def test_a_layer_whose_second_derivative_torch_lacks_is_inconclusive() -> None:
    def formula(x: Tensor) -> Tensor:
        return (nn.functional.pdist(x) - 1).square().sum()

    objective = ho.Objective.from_function(formula, torch.eye(3, dtype=torch.float64))
    result = certify(objective, eps_H=EPS)
    assert result.verdict == "inconclusive"
    assert "second derivative" in result.reason


def test_a_hessian_that_is_not_finite_is_inconclusive() -> None:
    # |x|^1.5 has a gradient at 0 and no second derivative.
    objective = ho.Objective.from_function(lambda x: ((x**2 + 0.0) ** 0.75).sum(), torch.zeros(2, dtype=torch.float64))
    result = certify(objective, eps_H=EPS)
    assert result.verdict == "inconclusive"


def test_float32_knows_less_and_says_no_more_than_it_knows() -> None:
    values = torch.cat([torch.tensor([-1e-7], dtype=torch.float64), torch.logspace(0, 3, 20, dtype=torch.float64)])
    result = certificate_of(matrix_with(values, 0).float(), eps_H=1e-8)
    assert result.verdict != "second_order_stationary"  # rounding of the products is far above eps_H


def test_the_same_generator_gives_the_same_certificate_and_the_point_is_not_touched() -> None:
    matrix = matrix_with(spectrum(10, -0.1, 100.0, 0), 0)
    assert certificate_of(matrix, 5) == certificate_of(matrix, 5)
    objective = ho.Objective.from_function(lambda x: x @ matrix @ x / 2, torch.ones(10, dtype=torch.float64))
    state = torch.get_rng_state()
    before = objective.position()
    certify(objective, eps_H=EPS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(objective.position(), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_products_are_counted_as_paid() -> None:
    matrix = matrix_with(spectrum(20, -0.1, 100.0, 0), 0)
    objective = ho.Objective.from_function(lambda x: x @ matrix @ x / 2, torch.zeros(20, dtype=torch.float64))
    result = certify(objective, eps_H=EPS, generator=torch.Generator().manual_seed(0))
    assert objective.ledger.counts["hvp"] == result.products
