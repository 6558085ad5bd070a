"""minimize: every status can be reached and means what it says; results, costs and structures are as promised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.core import ConfigError, ObjectiveError
from tests.optimizers.catalogue import quadratic, rosenbrock, saddle

KEYS = {
    "x", "fun", "grad_norm", "min_eigenvalue", "certificate", "status", "success", "message", "n_iter", "cost",
    "history",
}  # fmt: skip
STATUSES = {"converged", "saddle_point", "uncertified", "stalled", "budget_exhausted", "diverged"}
NATIVE = ["lbfgs", "newton_cg", "trust_newton_cg", "saddle_free_newton", "adam_lbfgs"]


def start(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


# -- status -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*NATIVE, "scipy:L-BFGS-B", "scipy:trust-krylov", "scipy:Newton-CG"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_converged(method: str, dtype: torch.dtype) -> None:
    if method.startswith("scipy:") and dtype == torch.float32:
        pytest.skip("SciPy's searches know nothing of values that are rounded to float32")
    result = ho.minimize(lambda x: ((x - 2) ** 2).sum() + x[0] ** 4, start(-1.2, 1.0, dtype=dtype), method=method)
    assert result.status == "converged"
    assert result.success
    assert result.grad_norm <= (1e-8 if dtype == torch.float64 else 1e-4)
    assert result.certificate.verdict == "second_order_stationary"
    assert result.min_eigenvalue == result.certificate.lambda_min_est > 1.9
    assert result.x.dtype == dtype
    assert "Stationary" in result.message
    assert "minimum" not in result.message.lower()


@pytest.mark.parametrize("method", [m for m in NATIVE if m != "saddle_free_newton"] + ["scipy:BFGS", "scipy:trust-ncg"])
@pytest.mark.parametrize("at", [(0.0, 0.0), (1.0, 0.0)], ids=["exactly", "from the stable side"])
def test_saddle_point(method: str, at: tuple[float, float]) -> None:
    result = ho.minimize(saddle, start(*at), method=method)
    assert result.status == "saddle_point"
    assert not result.success
    assert result.min_eigenvalue == pytest.approx(-2.0, abs=1e-6)
    assert "saddle" in result.message
    assert "escape" in result.message


def test_uncertified_without_the_second_order_test_and_with_kinks() -> None:
    result = ho.minimize(lambda x: (x**2).sum(), start(1.0), certify=False)
    assert (result.status, result.success, result.certificate) == ("uncertified", False, None)
    assert result.min_eigenvalue is None
    assert "certify=False" in result.message
    result = ho.minimize(lambda x: (x - 1).relu().square().sum() + (x**2).sum(), start(0.4), method="lbfgs")
    assert result.status == "uncertified"
    assert "Relu" in result.message


def test_budget_exhausted_by_steps_cost_and_callback() -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), max_iter=3)
    assert (result.status, result.n_iter, len(result.history)) == ("budget_exhausted", 3, 3)
    assert "3 steps done" in result.message
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method="sgd", max_cost=7.5, options={"lr": 1e-4})
    assert (result.status, result.n_iter) == ("budget_exhausted", 8)
    assert "gradient-equivalents" in result.message
    seen: list[dict[str, Any]] = []

    def callback(entry: dict[str, Any]) -> bool:
        seen.append(entry)
        return entry["step"] == 4

    def stop(entry: dict[str, Any]) -> None:
        raise StopIteration

    result = ho.minimize(rosenbrock, start(-1.2, 1.0), callback=stop)
    assert (result.status, result.n_iter) == ("budget_exhausted", 1)
    assert ho.minimize(rosenbrock, start(-1.2, 1.0), method="scipy:BFGS", callback=stop).n_iter == 1

    result = ho.minimize(rosenbrock, start(-1.2, 1.0), callback=callback)
    assert (result.status, result.n_iter) == ("budget_exhausted", 4)
    assert "callback" in result.message
    assert seen == result.history


def test_names_in_scipys_spelling_are_explained() -> None:
    for name, ours in (("BFGS", "bfgs"), ("L-BFGS-B", "lbfgs"), ("CG", "ncg")):
        with pytest.raises(ConfigError, match=f"Did you mean '{ours}'.*'scipy:{name}'"):
            ho.minimize(rosenbrock, start(-1.2, 1.0), method=name)
    with pytest.raises(ConfigError, match="name of an optimizer"):
        ho.minimize(rosenbrock, start(-1.2, 1.0), method=torch.optim.Adam)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [{"max_iter": 7}, {"max_iter": 25}, {"max_cost": 30}, {}])
def test_a_portfolio_in_the_middle_of_its_trials_answers_with_the_lowest_point(limit: dict[str, Any]) -> None:
    for fun, at in ((lambda x: x.abs().sum(), start(1.0, -0.3)), (rosenbrock, start(-1.2, 1.0))):
        result = ho.minimize(fun, at, method="auto", **limit)
        assert result.fun <= min(entry["fun"] for entry in result.history)


def test_a_stationary_point_that_a_trial_reaches_ends_the_run() -> None:
    result = ho.minimize(saddle, start(1.0, 0.0), method="auto")
    assert result.status == "saddle_point"
    assert result.x.abs().max() < 1e-8
    assert result.n_iter < 30, "the second of three trials gets there"
    for escape in ("perturbation", "negative_curvature", "neon", "noisy_gradient"):
        result = ho.minimize(saddle, start(1.0, 0.0), method="auto", escape=escape)
        assert result.success, escape
        assert result.fun == pytest.approx(-0.5)


def test_a_trial_that_ends_on_a_hill_is_not_the_answer() -> None:
    # The first step of the first member leaps from -1 to the stationary point 9, which lies higher.
    def fun(x: Tensor) -> Tensor:
        return torch.where(x < 5, x**2 / 2 - 3, (x - 9) ** 2 / 2 + 2).sum()

    portfolio = [{"name": "sgd", "options": {"lr": 10.0}}, "lbfgs"]
    result = ho.minimize(fun, start(-1.0), method="auto", options={"portfolio": portfolio})
    assert result.fun == pytest.approx(-3.0)


def test_a_stall_above_the_start_is_not_called_rounding() -> None:
    result = ho.minimize(lambda x: (x**2).sum(), start(1.0, 2.0), method="sgd", options={"lr": 1.05})
    assert result.status == "stalled"
    assert "the function rose from 5 to" in result.message


def test_a_run_that_is_stopped_at_a_stationary_point_is_judged_as_one() -> None:
    result = ho.minimize(lambda x: (x**2).sum(), start(1.0, 2.0), max_iter=1, options={"radius": 100.0})
    assert result.status == "converged"


def test_stalled_at_a_kink_and_by_precision() -> None:
    result = ho.minimize(lambda x: (x - 0.1).abs().sum() + x[0].abs() ** 3, start(1.0, -0.7), method="newton_cg")
    assert result.status == "stalled"
    assert not result.success
    assert "Abs" in result.message  # the reason is the kink, not the precision
    assert "precision_limit" not in result.message
    # A gradient of 1e-8 is out of reach where the function is a million.
    low = start(-1.2, 1.0, dtype=torch.float32)
    result = ho.minimize(lambda x: 1e6 * (1 + rosenbrock(1.1 * x)), low, method="lbfgs", gtol=1e-8)
    assert result.status == "stalled"
    assert "precision_limit" in result.message
    # The square of this gradient is no number in float64.
    result = ho.minimize(lambda x: (x**2).exp().sum(), start(20.0, 5.0))
    assert result.status == "stalled"
    assert "overflows" in result.message


@pytest.mark.parametrize("method", [*NATIVE, "sgd", "scipy:BFGS", "scipy:trust-ncg", "scipy:L-BFGS-B"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_from_a_start_that_is_not_finite(method: str, bad: float) -> None:
    result = ho.minimize(lambda x: (x**2).sum() + bad, start(1.0, 2.0), method=method)
    assert result.status == "diverged", result.message
    assert not result.success
    assert result.n_iter <= 1


def test_diverged_on_the_way() -> None:
    result = ho.minimize(lambda x: (x**4).sum(), start(3.0), method="sgd", options={"lr": 1.0})
    assert result.status == "diverged"
    assert "the function is" in result.message


@pytest.mark.parametrize("method", [*NATIVE, "sgd", "adam", "scipy:L-BFGS-B", "scipy:trust-ncg"])
@pytest.mark.parametrize("name", ["-x^2", "-x", "-exp", "log"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_function_that_is_unbounded_below_is_never_a_success(method: str, name: str) -> None:
    formula = {
        "-x^2": lambda x: -(x**2).sum(),
        "-x": lambda x: -x.sum(),
        "-exp": lambda x: -x.exp().sum(),
        "log": lambda x: x.log().sum(),
    }[name]
    result = ho.minimize(formula, start(1.0, 2.0), method=method, max_iter=60)
    assert result.status in STATUSES - {"converged"}, result.message
    assert result.message.endswith(".")


@pytest.mark.parametrize("method", NATIVE)
def test_a_flat_function_converges_at_once_and_says_that_it_is_degenerate(method: str) -> None:
    result = ho.minimize(lambda x: (0 * x).sum() + 5, start(1.0, 2.0), method=method)
    assert (result.status, result.fun, result.n_iter) == ("converged", 5.0, 1)
    assert result.certificate.degenerate
    assert "higher derivatives decide" in result.message


@pytest.mark.parametrize(
    "formula", [lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, lambda x: (x**4).sum()], ids=["monkey saddle", "quartic"]
)
def test_a_degenerate_point_is_marked(formula: Any) -> None:
    result = ho.minimize(formula, start(0.0, 0.0))
    assert result.status == "converged"
    assert result.certificate.degenerate


def test_many_random_saddles_are_never_a_success() -> None:
    for seed in range(25):
        lowest = (-1.0, -0.05, -1e-3)[seed % 3]
        matrix, _ = quadratic(8, seed, lowest=lowest)
        result = ho.minimize(lambda x, m=matrix: x @ m @ x / 2, torch.zeros(8, dtype=torch.float64), seed=seed)
        assert result.status == "saddle_point", (seed, result)
        assert result.min_eigenvalue == pytest.approx(lowest, rel=1e-2)


# -- the result ---------------------------------------------------------------------------------------------------


def test_a_result_is_read_by_attribute_and_by_key() -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0))
    assert set(result.keys()) == KEYS == set(result)
    for key in KEYS:
        assert result[key] is getattr(result, key) or result[key] == getattr(result, key)
    assert dict(result)["status"] == "converged"
    with pytest.raises(KeyError):
        _ = result["jac"]
    assert "history" not in repr(result)


def test_the_history_has_an_entry_a_step_and_the_cost_adds_up() -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0))
    assert [entry["step"] for entry in result.history] == list(range(1, result.n_iter + 1))
    for name in ("fun", "gradient_equivalents", "seconds"):
        values = [entry[name] for entry in result.history]
        assert values == sorted(values, reverse=name == "fun")
    assert {"step", "fun", "grad_norm", "gradient_equivalents", "seconds", "events"} == result.history[0].keys()
    cost = result.cost
    assert set(cost) == {"forward", "gradient", "hvp", "ggnvp", "samples", "gradient_equivalents", "seconds"}
    assert cost["gradient_equivalents"] == pytest.approx(
        cost["forward"] / 3 + cost["gradient"] + 2 * cost["hvp"] + 4 / 3 * cost["ggnvp"]
    )
    assert cost["samples"] == cost["forward"] + cost["gradient"] + cost["hvp"] + cost["ggnvp"]
    # One gradient a step, one that found the end stationary, one for the result, one for the certificate.
    assert cost["gradient"] == result.n_iter + 3
    assert result.history[-1]["gradient_equivalents"] < cost["gradient_equivalents"]


def test_the_value_and_gradient_belong_to_the_point() -> None:
    for method in ("trust_newton_cg", "scipy:trust-ncg", "scipy:Nelder-Mead", "adam"):
        result = ho.minimize(rosenbrock, start(-1.2, 1.0), method=method, max_iter=7)
        leaf = result.x.clone().requires_grad_()
        value = rosenbrock(leaf)
        assert result.fun == pytest.approx(value.item(), rel=1e-12)
        gradient = torch.autograd.grad(value, leaf)[0]
        assert result.grad_norm == pytest.approx(float(gradient.abs().max()), rel=1e-9)
        assert not result.x.requires_grad


@pytest.mark.parametrize("method", ["trust_newton_cg", "lbfgs", "scipy:BFGS"])
def test_structures_come_back_as_they_went_in(method: str) -> None:
    single = ho.minimize(lambda x: ((x - 1) ** 2).sum(), torch.zeros(2, 3).double(), method=method)
    assert single.x.shape == (2, 3)
    scalar = ho.minimize(lambda x: (x - 1) ** 2, torch.tensor(3.0).double(), method=method)
    assert scalar.x.shape == ()
    assert float(scalar.x) == pytest.approx(1.0)
    listed = ho.minimize(
        lambda x: ((x[0] - 1) ** 2).sum() + ((x[1] - 2) ** 2).sum(), [torch.zeros(2), torch.zeros(1, 2)], method=method
    )
    assert isinstance(listed.x, list)
    assert [tuple(x.shape) for x in listed.x] == [(2,), (1, 2)]
    named = ho.minimize(lambda x: ((x["a.b"] - 1) ** 2).sum(), {"a.b": torch.zeros(2)}, method=method)
    assert list(named.x) == ["a.b"]
    assert torch.allclose(named.x["a.b"], torch.ones(2), atol=1e-3)
    array = ho.minimize(lambda x: ((x - 1) ** 2).sum(), np.zeros(2), method=method)
    assert array.x.dtype == torch.float64
    assert array.success
    whole = ho.minimize(lambda x: ((x - 1) ** 2).sum(), np.array([3, 4]), method=method)
    assert whole.x.dtype == torch.get_default_dtype()


def test_the_start_is_not_written_to() -> None:
    x0, array = start(-1.2, 1.0), np.array([-1.2, 1.0])
    ho.minimize(rosenbrock, x0, max_iter=3)
    ho.minimize(rosenbrock, array, max_iter=3)
    assert x0.tolist() == array.tolist() == [-1.2, 1.0]


@pytest.mark.parametrize("method", ["trust_newton_cg", "scipy:L-BFGS-B"])
def test_the_same_seed_gives_the_same_run(method: str) -> None:
    escape = None if method.startswith("scipy") else "perturbation"
    runs = [ho.minimize(saddle, start(1.0, 0.0), method=method, escape=escape, seed=seed) for seed in (0, 0, 1)]
    traces = [[entry["fun"] for entry in run.history] for run in runs]
    assert traces[0] == traces[1]
    if escape:
        assert traces[0] != traces[2]
    assert runs[0].certificate == runs[1].certificate


def test_options_go_to_the_method() -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method="trust_newton_cg", max_iter=1, options={"radius": 1e-3})
    assert float((result.x - start(-1.2, 1.0)).norm()) == pytest.approx(1e-3)
    gauss_newton = ho.minimize(rosenbrock, start(-1.2, 1.0), method="torch:LBFGS", options={"lr": 0.1}, max_iter=5)
    assert gauss_newton.n_iter == 5


@pytest.mark.parametrize(
    ("method", "options"),
    [("schedule_free", {"lr": 0.05}), ("lookahead", {"inner_options": {"lr": 0.05}, "period": 5})],
)
def test_the_answer_of_a_method_that_averages_is_its_average(method: str, options: dict[str, Any]) -> None:
    steps = 13
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method=method, options=options, max_iter=steps)
    objective = ho.Objective.from_function(rosenbrock, start(-1.2, 1.0))
    optimizer = ho.create(method, objective.model.parameters(), **options)
    for _ in range(steps):
        optimizer.step(objective)
    running = objective.position()
    with optimizer.evaluation():
        average, value = objective.position(), objective.value()
    assert not torch.equal(average, running)
    torch.testing.assert_close(result.x, average)
    assert result.fun == pytest.approx(value)


def test_a_method_that_averages_converges_where_its_average_does() -> None:
    def bowl(x: Tensor) -> Tensor:
        return (x.square() * x.new_tensor([1.0, 4.0])).sum()

    result = ho.minimize(bowl, start(3.0, -2.0), method="schedule_free", options={"lr": 0.1}, gtol=1e-3, max_iter=5000)
    assert result.success, result.message
    assert result.grad_norm <= 1e-3
    assert result.n_iter > 1 + next(row["step"] for row in result.history if row["grad_norm"] <= 1e-3)


# -- SciPy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-exact", "dogleg", "SLSQP"])
def test_scipys_methods_walk_as_they_do_on_their_own(name: str) -> None:
    def arrays(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        value = convex(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    def hessian(x: np.ndarray) -> np.ndarray:
        return torch.func.hessian(convex)(torch.from_numpy(x.copy())).numpy()

    def convex(x: Tensor) -> Tensor:
        return torch.logsumexp(torch.stack([x.sum(), -x.sum(), x[0] - 2 * x[1]]), 0) + 0.1 * (x**4).sum() + (x**2).sum()

    second: dict[str, Any] = {"hess": hessian} if name in ("Newton-CG", "trust-ncg", "trust-exact", "dogleg") else {}
    gtol = {"Newton-CG": "xtol", "SLSQP": "ftol"}.get(name, "gtol")
    options = {gtol: 1e-8, "maxiter": 100} | ({"ftol": 0.0} if name == "L-BFGS-B" else {})
    path: list[float] = []
    peer = scipy.optimize.minimize(
        arrays, np.array([1.5, -0.8]), jac=True, method=name, options=options,
        callback=lambda x, *_: path.append(arrays(x)[0]), **second,
    )  # fmt: skip
    result = ho.minimize(convex, start(1.5, -0.8), method=f"scipy:{name}", max_iter=100)
    assert result.n_iter == peer.nit
    np.testing.assert_allclose(result.x.numpy(), peer.x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose([entry["fun"] for entry in result.history], path, rtol=1e-9)


@pytest.mark.parametrize("name", ["Nelder-Mead", "Powell", "COBYLA", "TNC", "trust-krylov", "trust-constr"])
def test_scipys_other_methods_run_and_stop(name: str) -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method=f"scipy:{name}", max_iter=200)
    assert result.status in ("converged", "stalled", "budget_exhausted")
    assert result.fun < 5
    short = ho.minimize(rosenbrock, start(-1.2, 1.0), method=f"scipy:{name}", max_iter=5)
    assert short.status == "budget_exhausted"
    assert short.n_iter <= 5
    stopped = ho.minimize(
        rosenbrock, start(-1.2, 1.0), method=f"scipy:{name}", callback=lambda entry: entry["step"] >= 2, max_iter=50
    )
    assert (stopped.status, stopped.n_iter) == ("budget_exhausted", 2)
    assert stopped.fun == stopped.history[-1]["fun"]


def test_scipys_bill_is_the_objectives() -> None:
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method="scipy:trust-ncg")
    assert result.cost["hvp"] > 20
    assert result.cost["gradient"] > result.n_iter
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method="scipy:Nelder-Mead", max_iter=50)
    assert result.cost["forward"] > 50
    result = ho.minimize(rosenbrock, start(-1.2, 1.0), method="scipy:BFGS", max_cost=12)
    assert result.status == "budget_exhausted"
    assert result.cost["gradient_equivalents"] < 25


# -- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "trust_newton"}, "no optimizer 'trust_newton'.*Did you mean 'trust_newton_cg'"),
        ({"method": "scipy:trust-krylow"}, "Did you mean 'trust-krylov'"),
        ({"escape": "perturb"}, "no escape 'perturb'"),
        ({"escape": "perturbation", "method": "scipy:BFGS"}, "cannot be given an escape"),
        ({"gtol": 0.0}, "gtol must be > 0"),
        ({"gtol": -1.0}, "gtol must be > 0"),
        ({"gtol": math.nan}, "gtol must be > 0"),
        ({"gtol": "small"}, "gtol must be of type float"),
        ({"max_iter": 0}, "max_iter must be >= 1"),
        ({"max_iter": 2.5}, "max_iter must be of type int"),
        ({"max_cost": 0}, "max_cost must be > 0"),
        ({"seed": None}, "seed must be of type int"),
        ({"options": [1]}, "options must map names"),
        ({"callback": 3}, "callback must be a function"),
        ({"options": {"radios": 1}}, "Did you mean 'radius'"),
        ({"options": {"radius": -1}}, "radius must be > 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ho.minimize(rosenbrock, start(1.0, 2.0), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["trust_newton_cg", "lbfgs", "adam", "scipy:BFGS"])
@pytest.mark.parametrize(
    ("fun", "x0", "message"),
    [
        (lambda x: x**2, torch.ones(2), r"must be a scalar, but has shape \(2,\)"),
        (lambda x: float((x**2).sum().detach()), torch.ones(2), "must be a scalar tensor, not float"),
        (lambda x: (x.detach() ** 2).sum(), torch.ones(2), "has no graph"),
        (lambda x: (x**2).sum(), torch.ones(2, dtype=torch.int64), r"dtype torch\.int64.*x0\.double"),
        (lambda x: (x**2).sum(), [], "starting point is empty"),
        (lambda x: (x**2).sum(), torch.ones(2, dtype=torch.complex64), "floating"),
        ("x**2", torch.ones(2), "must be a function"),
    ],
)
def test_wrong_functions_and_starts(method: str, fun: Any, x0: Any, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        ho.minimize(fun, x0, method=method)


def test_an_error_of_the_function_is_the_users_own() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("mine")

    for method in ("trust_newton_cg", "scipy:BFGS"):
        with pytest.raises(KeyError, match="mine"):
            ho.minimize(broken, start(1.0), method=method)
