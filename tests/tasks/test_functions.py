"""The More-Garbow-Hillstrom collection: values at the starts, derivatives, minima, and the task made of it."""

from __future__ import annotations

import math

import pytest
import scipy.optimize
import torch

import hybridopt as ho
import hybridopt.tasks as tasks
from hybridopt.core import ConfigError, UnknownNameError
from hybridopt.tasks.functions import Problem, problem, problems

# Values at the standard start, from the table of ACM Algorithm 566.
START_VALUES = {
    "rosenbrock": 24.2,
    "freudenstein_roth": 400.5,
    "powell_badly_scaled": 1.13526,
    "brown_badly_scaled": 9.99998e11,
    "beale": 14.2031,
    "jennrich_sampson": 4171.31,
    "helical_valley": 2500,
    "bard": 41.6817,
    "gaussian": 3.88811e-6,
    "meyer": 1.69361e9,
    "gulf": 12.1107,
    "box": 1031.15,
    "powell_singular": 215,
    "wood": 19192,
    "kowalik_osborne": 5.31317e-3,
    "brown_dennis": 7.92669e6,
    "osborne_1": 0.879026,
    "biggs_exp6": 0.77907,
    "osborne_2": 2.09342,
    "watson_6": 30,
    "watson_9": 30,
    "watson_12": 30,
    "extended_rosenbrock": 121,
    "extended_powell": 645,
    "penalty_1_4": 885.063,
    "penalty_1_10": 148033,
    "penalty_2_4": 2.34001,
    "penalty_2_10": 162.653,
    "variably_dimensioned": 2.19855e6,
    "trigonometric": 7.07576e-3,
    "brown_almost_linear": 273.248,
    "discrete_boundary_value": 7.88519e-4,
    "discrete_integral_equation": 6.34168e-2,
    "broyden_tridiagonal": 21,
    "broyden_banded": 360,
    "chebyquad_8": 3.86177e-2,
    "chebyquad_10": 3.37633e-2,
}
each = pytest.mark.parametrize("function", problems(), ids=lambda function: function.name)


def near_start(function: Problem) -> torch.Tensor:
    """A point without the symmetries of the start."""
    generator = torch.Generator().manual_seed(function.n)
    start = function.start()
    return start * (1 + 0.1 * torch.rand(function.n, generator=generator, dtype=torch.float64)) + 0.01


def test_the_collection_is_complete() -> None:
    assert {function.name for function in problems()} == set(START_VALUES)
    assert all(problem(function.name) == function for function in problems())


@each
def test_value_at_the_start_is_that_of_the_table(function: Problem) -> None:
    assert float(function(function.start())) == pytest.approx(START_VALUES[function.name], rel=1e-4)


@each
def test_derivatives_are_those_of_finite_differences(function: Problem) -> None:
    x = near_start(function)
    jacobian = torch.func.jacrev(function.residuals)(x)
    for i in range(function.n):
        step = torch.zeros_like(x)
        step[i] = 1e-6 * max(1e-2, abs(float(x[i])))
        numeric = (function.residuals(x + step) - function.residuals(x - step)) / (2 * step[i])
        torch.testing.assert_close(numeric, jacobian[:, i], rtol=1e-5, atol=1e-6 * float(jacobian.abs().max()))
    # And the second derivatives, along one direction.
    direction = torch.linspace(1, 2, function.n, dtype=torch.float64) * x.abs().clamp(min=1e-2)
    gradient, hessian = torch.func.grad(function), torch.func.hessian(function)(x)
    numeric = (gradient(x + 1e-6 * direction) - gradient(x - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close(numeric, hessian @ direction, rtol=1e-4, atol=1e-6 * float(numeric.abs().max()))


# Everything that SciPy's trust-region solver does not bring from the standard start to the first listed value.
LEADS_ELSEWHERE = {"biggs_exp6": 0.0}


@each
def test_the_first_listed_minimum_is_stationary_and_met_from_the_start(function: Problem) -> None:
    solution = scipy.optimize.least_squares(
        lambda x: function.residuals(torch.from_numpy(x)).numpy(),
        function.start().numpy(),
        lambda x: torch.func.jacrev(function.residuals)(torch.from_numpy(x)).numpy(),
        x_scale="jac",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=200,
    )
    x = torch.from_numpy(solution.x)
    for _ in range(3):  # large residuals make Gauss-Newton slow, not Newton
        gradient, hessian = torch.func.grad(function)(x), torch.func.hessian(function)(x)
        newton = x - torch.linalg.lstsq(hessian, gradient).solution
        x = newton if function(newton) < function(x) else x
    wanted = LEADS_ELSEWHERE.get(function.name, function.minima[0])
    assert wanted in function.minima
    assert float(function(x)) == pytest.approx(wanted, rel=1e-8, abs=1e-18)
    assert function.solved(float(function(x)))
    # Stationary: no relative change of one parameter by 1e-6 lowers the value.
    for factor in (1 - 1e-6, 1 + 1e-6):
        for i in range(function.n):
            moved = x.clone()
            moved[i] *= factor
            assert float(function(moved)) >= float(function(x)) * (1 - 1e-9) - 1e-20


@pytest.mark.parametrize(
    ("name", "minimizer", "value"),
    [
        ("freudenstein_roth", [5.0, 4.0], 0.0),
        ("biggs_exp6", [1.0, 10.0, 1.0, 5.0, 4.0, 3.0], 0.0),
        ("brown_almost_linear", [0.0] * 9 + [11.0], 1.0),
        ("helical_valley", [1.0, 0.0, 0.0], 0.0),
        ("gulf", [50.0, 25.0, 1.5], 0.0),
        ("box", [1.0, 10.0, 1.0], 0.0),
        ("penalty_1_4", [0.2500075] * 4, 2.2499775e-5),
    ],
)
def test_minimizers_known_in_closed_form(name: str, minimizer: list[float], value: float) -> None:
    function, x = problem(name), torch.tensor(minimizer, dtype=torch.float64)
    assert float(function(x)) == pytest.approx(value, rel=1e-6, abs=1e-18)
    assert function.solved(value)


def test_solved_means_at_a_listed_minimum() -> None:
    function = problem("freudenstein_roth")
    assert function.solved(48.984253679 * (1 + 9e-6))
    assert function.solved(1e-14)
    assert not function.solved(48.984253679 * (1 + 2e-5))
    assert not function.solved(30.0), "below the local minimum, but on the way to the other"
    assert not function.solved(math.nan)
    assert problem("watson").solved(2.28767e-3), "values below the rounded listed one"


def test_starts() -> None:
    assert problem("rosenbrock").start(10).tolist() == [-12.0, 10.0]
    assert problem("watson").start().tolist() == [0.0] * 6
    assert problem("watson").start(100).tolist() == [100.0] * 6, "as in Algorithm 566"
    assert problem("rosenbrock").start().dtype == torch.float64


def test_names_and_dimensions() -> None:
    assert problem("watson", 9) == problem("watson_9")
    assert problem("trigonometric", 100).minima == (0.0,)
    assert problem("penalty_1", 50).minima == ()
    with pytest.raises(UnknownNameError, match="Did you mean 'rosenbrock'"):
        problem("rosenbruck")
    with pytest.raises(ConfigError, match="exists for n = 4 only"):
        problem("wood", 8)
    with pytest.raises(ConfigError, match="a multiple of 4"):
        problem("extended_powell", 6)
    with pytest.raises(ConfigError, match=r"shape \(2,\)"):
        problem("beale")(torch.zeros(3))


@pytest.mark.parametrize("name", ["discrete_integral_equation", "broyden_banded", "watson"])
def test_vectorised_sums_are_those_of_the_paper(name: str) -> None:
    n = 7
    x = torch.linspace(-1, 1.3, n, dtype=torch.float64)
    h, rows = 1 / (n + 1), []
    if name == "watson":
        for i in range(1, 30):
            t = i / 29
            first = sum((j - 1) * x[j - 1] * t ** (j - 2) for j in range(2, n + 1))
            rows.append(first - sum(x[j - 1] * t ** (j - 1) for j in range(1, n + 1)) ** 2 - 1)
        rows += [x[0], x[1] - x[0] ** 2 - 1]
    for i in range(1, n + 1):
        if name == "broyden_banded":
            near = [j for j in range(max(1, i - 5), min(n, i + 1) + 1) if j != i]
            rows.append(x[i - 1] * (2 + 5 * x[i - 1] ** 2) + 1 - sum(x[j - 1] * (1 + x[j - 1]) for j in near))
        elif name == "discrete_integral_equation":
            t = h * i
            below = sum(h * j * (x[j - 1] + h * j + 1) ** 3 for j in range(1, i + 1))
            above = sum((1 - h * j) * (x[j - 1] + h * j + 1) ** 3 for j in range(i + 1, n + 1))
            rows.append(x[i - 1] + h * ((1 - t) * below + t * above) / 2)
    torch.testing.assert_close(problem(name, n).residuals(x), torch.stack(rows))


def test_the_objective_has_a_gauss_newton_matrix() -> None:
    function = problem("bard")
    objective = function.objective()
    jacobian = torch.func.jacrev(function.residuals)(function.start())
    torch.testing.assert_close(ho.curvature.GaussNewton(objective).dense(), 2 * jacobian.T @ jacobian)
    assert objective.value() == float(function(function.start()))
    assert objective.samples == 1


def test_the_task() -> None:
    task = tasks.create("test_function", problem="watson_9", start=10)
    splits, model = task.splits(), task.model(3)
    assert model.x.dtype == torch.float64, "the start is not rounded to float32"
    assert model.x.tolist() == [10.0] * 9
    assert task.reference_samples(splits) == 1
    loss = float(task.loss(model(splits.train.inputs), splits.train.targets).detach())
    assert loss == float(task.problem(torch.full((9,), 10.0, dtype=torch.float64))) == task.trivial_loss(splits)
    assert task.targets[0].reached(1.3997601e-6)
    assert not task.targets[0].reached(1.4e-6)
    both = tasks.create("test_function", problem="freudenstein_roth").targets
    assert [target.metric for target in both] == ["validation_loss", "train_loss", "train_loss"]
    assert both[0].reached(48.98426)
    assert not both[2].reached(48.98426)


def test_a_task_needs_a_listed_minimum() -> None:
    with pytest.raises(ConfigError, match="No minimum of penalty_1 is known for n = 50"):
        tasks.create("test_function", problem="penalty_1", n=50)
    with pytest.raises(UnknownNameError, match="There is no test function"):
        tasks.create("test_function", problem="nothing")
    with pytest.raises(ConfigError, match="start"):
        tasks.create("test_function", start=3)
