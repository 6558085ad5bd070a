"""minimize with an escape: it leaves saddle points, is asked for at no other, and a certificate ends the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import saddle


def start(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("method", ["sgd", "lbfgs", "newton_cg", "trust_newton_cg"])
@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature", {"name": "perturbation", "radius": 0.1}])
@pytest.mark.parametrize("at", [(0.0, 0.0), (1.0, 0.0)], ids=["exactly", "from the stable side"])
def test_an_escape_turns_a_saddle_point_into_a_minimum(method: str, escape: Any, at: tuple[float, float]) -> None:
    result = ho.minimize(saddle, start(*at), method=method, escape=escape)
    assert result.status == "converged", result.message
    assert result.fun == pytest.approx(-0.5, abs=1e-9)
    assert any(event["event"] == "escaped" for entry in result.history for event in entry["events"])


@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature"])
@pytest.mark.parametrize("gtol", [1e-3, 1e-6])
def test_the_escape_looks_at_the_gradient_that_ends_the_run(escape: str, gtol: float) -> None:
    result = ho.minimize(saddle, start(0.3, 0.0), method="sgd", escape=escape, gtol=gtol)
    assert result.status == "converged"
    assert result.fun == pytest.approx(-0.5, abs=gtol)
    first = next(entry for entry in result.history if entry["events"])
    assert 0.1 * gtol < first["grad_norm"] <= gtol


def test_saddle_free_newton_needs_no_escape() -> None:
    for at in ((0.0, 0.0), (1.0, 0.0)):
        assert ho.minimize(saddle, start(*at), method="saddle_free_newton").fun == pytest.approx(-0.5)


def digits() -> tuple[Any, dict[str, Tensor]]:
    data, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(data / 16), torch.from_numpy(labels)

    def fun(p: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(inputs @ p["W1"].T + p["b1"])
        return torch.nn.functional.cross_entropy(hidden @ p["W2"].T + p["b2"], targets)

    shapes = {"W1": (8, 64), "b1": (8,), "W2": (10, 8), "b2": (10,)}
    return fun, {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("method", ["trust_newton_cg", "newton_cg", "lbfgs", "scipy:trust-krylov"])
def test_every_method_ends_at_the_saddle_of_the_zero_network_and_says_so(method: str) -> None:
    result = ho.minimize(*digits(), method=method)
    assert result.status == "saddle_point"
    assert result.fun == pytest.approx(2.302479, abs=1e-6)
    assert result.min_eigenvalue == pytest.approx(-0.2407, abs=1e-3)
    assert set(result.x) == {"W1", "b1", "W2", "b2"}


@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature"])
@pytest.mark.parametrize("seed", range(5))
def test_with_an_escape_the_zero_network_learns(escape: str, seed: int) -> None:
    def learned(entry: dict[str, Any]) -> bool:
        return entry["fun"] <= 0.05

    result = ho.minimize(*digits(), method="trust_newton_cg", escape=escape, seed=seed, callback=learned)
    assert result.fun <= 0.05
    assert result.cost["gradient_equivalents"] < 2500


@pytest.mark.parametrize("method", ["newton_cg", "lbfgs", "trust_newton_cg"])
@pytest.mark.parametrize("escape", ["perturbation", "negative_curvature", "neon", "noisy_gradient", ["neon"]], ids=str)
def test_at_a_certified_point_no_escape_is_tried(method: str, escape: Any) -> None:
    result = ho.minimize(lambda x: ((x - 2) ** 2).sum() + x[0] ** 4, start(-1.2, 1.0), method=method, escape=escape)
    events = [event for entry in result.history for event in entry["events"]]
    assert result.success
    assert "escape_jump" not in [event["event"] for event in events]
    assert {"event": "no_escape", "certified": True}.items() <= events[-1].items()
    # The certificate is that of the end, and paid once.
    plain = ho.minimize(lambda x: ((x - 2) ** 2).sum() + x[0] ** 4, start(-1.2, 1.0), method=method)
    assert result.cost["hvp"] == plain.cost["hvp"]
    assert result.n_iter <= plain.n_iter + 2


@pytest.mark.parametrize("escape", ["perturbation", "noisy_gradient"])
def test_at_a_degenerate_point_escapes_are_tried_all_the_same(escape: str) -> None:
    def monkey(x: Tensor) -> Tensor:
        return x[0] ** 3 - 3 * x[0] * x[1] ** 2 + (x**2).sum() ** 2 / 4

    result = ho.minimize(monkey, start(0.0, 0.0), escape=escape)
    assert result.success
    assert not result.certificate.degenerate
    assert result.fun == pytest.approx(-6.75)


def test_without_certificates_the_escape_settles_by_itself() -> None:
    result = ho.minimize(
        lambda x: (x**2).sum(), start(1.0, 2.0), method="newton_cg", escape="perturbation", certify=False
    )
    events = [event["event"] for entry in result.history for event in entry["events"]]
    assert result.status == "uncertified"
    assert events.count("escape_undone") == 4


def test_an_escape_given_as_an_object_is_left_as_it_was() -> None:
    from hybridopt.escape.perturbation import Perturbation

    escape = Perturbation()
    assert ho.minimize(saddle, start(1.0, 0.0), escape=escape).success
    assert escape.ask is None
