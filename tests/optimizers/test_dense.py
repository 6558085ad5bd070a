"""Dense methods: against matrices computed by torch.func, on saddles, at their size limit, and against SciPy."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import hybridopt as ho
from hybridopt.core import CombinationError
from hybridopt.tasks.functions import problem
from tests.optimizers.catalogue import Method, each, function, names, quadratic, rosenbrock, saddle, training

DENSE = names("newton", "gauss_newton", "levenberg_marquardt")
LEAST_SQUARES = names("gauss_newton", "levenberg_marquardt")


@pytest.mark.parametrize("options", [{}, {"modification": "shift"}, {"scaling": "identity"}], ids=str)
def test_one_newton_step_solves_a_quadratic(options: dict[str, Any]) -> None:
    matrix, vector = quadratic(12)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(12).tolist())
    optimizer = ho.create("newton", objective.model.parameters(), **options)
    optimizer.step(objective)
    torch.testing.assert_close(objective.position(), torch.linalg.solve(matrix, vector), rtol=1e-10, atol=1e-12)
    assert (optimizer.report.modified, optimizer.report.negative) == (0, 0)


@pytest.mark.parametrize("modification", ["absolute", "shift"])
def test_an_indefinite_matrix_is_modified_as_the_textbook_says(modification: str) -> None:
    matrix, vector = quadratic(8, lowest=-3.0)
    objective = function(lambda x: x @ matrix @ x / 2 - vector @ x, torch.ones(8).tolist())
    optimizer = ho.create(
        "newton", objective.model.parameters(), modification=modification, scaling="identity", floor=1e-2
    )
    gradient = objective.value_and_grad()[1]
    optimizer.step(objective)
    values, vectors = torch.linalg.eigh(matrix)
    floor = 1e-2 * values.abs().max()
    positive = values.abs().clamp(min=floor) if modification == "absolute" else values + floor - values[0]
    direction = -(vectors @ ((vectors.T @ gradient) / positive))
    moved = objective.position() - 1
    torch.testing.assert_close(moved, optimizer.report.step_size * direction, rtol=1e-9, atol=1e-11)
    assert optimizer.report.negative == int((values < 0).sum()) > 0


def test_the_path_does_not_depend_on_the_units_of_the_parameters() -> None:
    # Powers of two, so that rounding is the same too.
    units = torch.tensor([1.0, 2.0**12, 2.0**-9], dtype=torch.float64)
    plain = function(rosenbrock, [-1.2, 1.0, 0.5])
    scaled = function(
        lambda x: rosenbrock(x * units), (torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64) / units).tolist()
    )
    optimizers = [ho.create("levenberg_marquardt", o.model.parameters(), curvature="hessian") for o in (plain, scaled)]
    for _ in range(12):
        for optimizer, objective in zip(optimizers, (plain, scaled), strict=True):
            optimizer.step(objective)
        torch.testing.assert_close(scaled.position() * units, plain.position(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("start", [[0.0, 0.0], [0.5, 0.0], [1e-12, 1e-13]])
def test_newton_leaves_a_saddle(start: list[float]) -> None:
    objective = function(saddle, start)
    optimizer = ho.create("newton", objective.model.parameters())
    for _ in range(12):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(-0.5, abs=1e-12)


def test_the_step_off_a_saddle_is_reported_and_paid() -> None:
    objective = function(saddle, [0.0, 0.0])
    optimizer = ho.create("newton", objective.model.parameters())
    optimizer.step(objective)
    report, counts = optimizer.report, objective.ledger.counts
    assert report.status == "negative_curvature"
    assert report.accepted
    assert report.curvature == pytest.approx(-2.0)
    assert report.step_norm == pytest.approx(abs(float(objective.position()[1])))
    assert counts == {"forward": report.evaluations, "gradient": 1, "hvp": 2, "ggnvp": 0}


def test_the_better_sense_of_the_direction_is_taken() -> None:
    ends = []
    for side in (-1.0, 1.0):
        objective = function(lambda x, side=side: x[0] ** 2 - x[1] ** 2 + side * x[1] ** 3 + x[1] ** 4, [0.0, 0.0])
        ho.create("newton", objective.model.parameters()).step(objective)
        ends.append(objective.value())
    assert ends[0] == ends[1] <= -1


def test_a_flat_saddle_is_no_reason_to_jump() -> None:
    # Stationary with a zero eigenvalue: a monkey saddle is left to escapes.
    objective = function(lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, [0.0, 0.0])
    optimizer = ho.create("newton", objective.model.parameters())
    optimizer.step(objective)
    assert optimizer.report.status == "zero_gradient"
    assert objective.position().tolist() == [0.0, 0.0]


@each(LEAST_SQUARES)
def test_one_step_solves_linear_least_squares(method: Method) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 2).double()
    inputs, targets = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    objective = ho.Objective(model, nn.functional.mse_loss, inputs, targets)
    more = {"damping": 1e-12} if method.name == "levenberg_marquardt" else {}
    ho.create(method.name, model.parameters(), **more).step(objective)
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.lstsq(design, targets).solution
    torch.testing.assert_close(model.weight.T, wanted[:5], rtol=1e-8, atol=1e-9)
    assert objective.ledger.counts["ggnvp"] == 12
    assert objective.ledger.counts["hvp"] == 0


@pytest.mark.parametrize("scaling", ["diagonal", "identity"])
def test_the_damped_step_is_that_of_the_dense_system(scaling: str) -> None:
    function_ = problem("kowalik_osborne")
    objective = function_.objective()
    x = function_.start()
    jacobian, residuals = torch.func.jacrev(function_.residuals)(x), function_.residuals(x)
    optimizer = ho.create("levenberg_marquardt", objective.model.parameters(), damping=0.1, scaling=scaling)
    optimizer.step(objective)
    matrix = 2 * jacobian.T @ jacobian
    scale = matrix.diagonal() if scaling == "diagonal" else matrix.diagonal().max().expand(4)
    wanted = -torch.linalg.solve(matrix + 0.1 * torch.diag(scale), 2 * jacobian.T @ residuals)
    assert optimizer.report.accepted
    assert optimizer.report.evaluations == 1
    torch.testing.assert_close(objective.position() - x, wanted, rtol=1e-9, atol=1e-12)
    predicted = -(2 * (jacobian.T @ residuals) @ wanted + wanted @ matrix @ wanted / 2)
    ratio = float((function_(x) - function_(x + wanted)) / predicted)
    assert optimizer.report.ratio == pytest.approx(ratio, rel=1e-6)
    assert optimizer.report.damping == pytest.approx(0.1 * max(1 / 3, 1 - (2 * min(ratio, 1.0) - 1) ** 3), rel=1e-6)


def test_the_damping_after_an_accepted_step_is_nielsens() -> None:
    objective = function(rosenbrock, [-1.2, 1.0, 0.5])
    optimizer = ho.create("levenberg_marquardt", objective.model.parameters(), curvature="hessian", damping=1.0)
    damping, factors = 1.0, set()
    for _ in range(25):
        optimizer.step(objective)
        report = optimizer.report
        if report.evaluations == 1 and report.accepted:
            factors.add(round(report.damping / damping, 3))
            assert report.damping == pytest.approx(damping * max(1 / 3, 1 - (2 * min(report.ratio, 1.0) - 1) ** 3))
        damping = report.damping
    assert len(factors) > 4


def test_rejected_dampings_cost_forward_passes_and_grow_ever_faster() -> None:
    # Its curvature falls away from the minimum: long steps overshoot by far.
    objective = function(lambda x: (1 + 9 * x**2).sqrt().sum(), [3.0, -4.0])
    optimizer = ho.create("levenberg_marquardt", objective.model.parameters(), curvature="hessian", damping=1e-3)
    optimizer.step(objective)
    report, counts = optimizer.report, objective.ledger.counts
    assert report.accepted
    assert report.evaluations > 2
    assert counts == {"forward": report.evaluations, "gradient": 1, "hvp": 2, "ggnvp": 0}
    rejected = report.evaluations - 1
    grown = 1e-3 * 2 ** (rejected * (rejected + 1) / 2)
    assert grown / 3 - 1e-12 <= report.damping <= grown * 2


def test_the_scale_is_the_largest_diagonal_so_far() -> None:
    function_ = problem("osborne_1")
    objective = function_.objective()
    optimizer = ho.create("levenberg_marquardt", objective.model.parameters())
    largest = torch.zeros(5, dtype=torch.float64)
    shrunk = False
    for _ in range(6):
        jacobian = torch.func.jacrev(function_.residuals)(objective.position())
        present = 2 * jacobian.square().sum(dim=0)
        shrunk = shrunk or bool((present < 0.9 * largest).any())
        largest = torch.maximum(largest, present)
        optimizer.step(objective)
        torch.testing.assert_close(optimizer.memory["scale"], largest)
    assert shrunk, "the problem must tell the largest from the last"


def test_levenberg_marquardt_ends_where_minpack_ends() -> None:
    for name in ("bard", "kowalik_osborne", "osborne_1", "helical_valley"):
        function_ = problem(name)
        objective = function_.objective()
        optimizer = ho.create("levenberg_marquardt", objective.model.parameters())
        for _ in range(60):
            optimizer.step(objective)
        peer = scipy.optimize.least_squares(
            lambda x, f=function_: f.residuals(torch.from_numpy(x)).numpy(),
            function_.start().numpy(),
            method="lm",
            xtol=1e-14,
            ftol=1e-14,
        )
        torch.testing.assert_close(objective.position(), torch.from_numpy(peer.x), rtol=1e-5, atol=1e-7)


def test_gauss_newton_converges_quadratically_without_residuals() -> None:
    objective = problem("rosenbrock").objective()
    optimizer = ho.create("gauss_newton", objective.model.parameters())
    values = [float(optimizer.step(objective)) for _ in range(16)]
    assert values[-1] < 1e-25


@each(DENSE)
def test_too_many_parameters_are_refused_at_construction_with_what_works(method: Method) -> None:
    model = nn.Linear(100, 30)
    with pytest.raises(CombinationError, match=r"3,030 x 3,030 entries .* Use newton_cg, .* or raise max_dimension"):
        ho.create(method.name, model.parameters())
    assert ho.create(method.name, model.parameters(), max_dimension=3030).config.max_dimension == 3030
    model.weight.requires_grad_(False)
    ho.create(method.name, model.parameters())


@each(DENSE)
def test_parameters_thawed_later_are_counted_too(method: Method) -> None:
    problem_ = training(dtype=torch.float64)
    first = problem_.model[0].weight.requires_grad_(False)
    optimizer = method.create(problem_.model.parameters(), max_dimension=30)
    optimizer.step(problem_.objective)
    first.requires_grad_(True)
    before = [p.detach().clone() for p in problem_.model.parameters()]
    with pytest.raises(CombinationError, match="max_dimension=30"):
        optimizer.step(problem_.objective)
    assert all(torch.equal(a, b) for a, b in zip(before, problem_.model.parameters(), strict=True))
    with pytest.raises(CombinationError, match="max_dimension=30"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(20, dtype=torch.float64))]})


@each(DENSE)
def test_the_loss_of_a_network_falls_in_every_step(method: Method) -> None:
    problem_ = training()
    optimizer = method.create(problem_.model.parameters())
    losses = [float(optimizer.step(problem_.objective)) for _ in range(6)]
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.95 * losses[0]


@each(DENSE)
@pytest.mark.parametrize("curvature", ["gauss_newton", "fisher", "empirical_fisher"])
def test_matrices_of_the_outputs(method: Method, curvature: str) -> None:
    problem_ = training(dtype=torch.float64)
    more = {"modification": "pseudo_inverse"} if method.name == "newton" else {}
    optimizer = method.create(problem_.model.parameters(), curvature=curvature, **more)
    losses = [float(optimizer.step(problem_.objective)) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert problem_.objective.ledger.counts["hvp"] == 0


def test_a_matrix_that_is_not_finite_is_a_status() -> None:
    def formula(x: Tensor) -> Tensor:  # finite value and gradient, infinite curvature at zero
        return x[0].abs() ** 1.5 + x[1] ** 2 + x[1]

    objective = function(formula, [0.0, 1.0])
    for method in DENSE:
        optimizer = method.create(objective.model.parameters(), curvature="hessian")
        optimizer.step(objective)
        assert optimizer.report.status == "non_finite"
        assert objective.position().tolist() == [0.0, 1.0]
