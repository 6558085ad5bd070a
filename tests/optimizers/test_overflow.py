"""Functions without a lower bound, and poles: methods run away to numbers whose squares overflow, without an error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hybridopt as ho

METHODS = [
    "ncg",
    "bfgs",
    "ssbroyden",
    "lbfgs",
    "sr1",
    "lsr1",
    "newton_cg",
    "trust_newton_cg",
    "newton",
    "trust_gltr",
    "cubic_newton",
    "newton_mr",
    "capped_newton_cg",
    "nystrom_newton_cg",
    "curvilinear_newton",
    "saddle_free_newton",
]


def exponential(x: Tensor) -> Tensor:
    return -x.exp().sum()


def cubic(x: Tensor) -> Tensor:
    return x.pow(3).sum()


def pole(x: Tensor) -> Tensor:
    return -x.pow(-2).sum()


@pytest.mark.parametrize("function", [exponential, cubic, pole], ids=lambda function: function.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_no_error_and_no_success_on_the_way_to_infinity(method: str, function: Callable[[Tensor], Tensor]) -> None:
    start = {exponential: [1.0], cubic: [1.0, -0.5], pole: [1.0, 0.5]}[function]
    result = ho.minimize(function, torch.tensor(start, dtype=torch.float64), method, max_iter=80)
    assert result.status in ("stalled", "diverged", "budget_exhausted"), result.message
    assert all(entry["fun"] <= result.history[0]["fun"] for entry in result.history)


def test_a_rate_scales_a_step_whose_cube_overflows() -> None:
    options = {"lr": 0.5, "sigma": 1e-300}
    result = ho.minimize(
        lambda x: x.sum(), torch.zeros(2, dtype=torch.float64), "cubic_newton", max_iter=3, options=options
    )
    assert not result.success
