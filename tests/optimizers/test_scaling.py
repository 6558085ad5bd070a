"""A function or its parameters in other units: which methods take the same steps, and what keeps the others from it.

Powers of two do not change a rounding, so what does not depend on the units is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from tests.optimizers.catalogue import GLOBALIZED, ON_OUTPUTS, Method, each, function, rosenbrock, saddle

DEPENDS = {
    "newton_cg": "damping is in the units of the curvature",
    "nystrom_newton_cg": "damping is in the units of the curvature",
    "hessian_free": "damping is in the units of the curvature",
    "newton_mr": "a step along negative curvature begins at the length of the residual, a gradient",
    "capped_newton_cg": "epsilon and eta are in the units of the curvature and its derivative",
    "cubic_newton": "sigma is in the units of the third derivative",
    "sr1": "the first matrix is the identity",
    "lsr1": "the first matrix is the identity",
    "ncg": "the bound below beta has a length of gradients in it, eta of Hager and Zhang 2005",
    "bfgs": "the first trial is the gradient where that is short, as in torch.optim.LBFGS",
    "lbfgs": "the first trial is the gradient where that is short, as in torch.optim.LBFGS",
    "ssbroyden": "the first trial is the gradient where that is short, as in torch.optim.LBFGS",
}
"""Methods with constants in the units of the function, and which."""
OF_PARAMETERS = {
    "bfgs": DEPENDS["bfgs"],
    "lbfgs": DEPENDS["lbfgs"],
    "ssbroyden": DEPENDS["ssbroyden"] + ", and the first member of the family is chosen with the identity as matrix",
    "sr1": DEPENDS["sr1"],
    "lsr1": DEPENDS["lsr1"],
    "ncg": DEPENDS["ncg"],
    "newton_mr": DEPENDS["newton_mr"],
}
"""Methods with constants in the units of the parameters that are no options, and which."""
OPTIONS_OF_PARAMETERS: dict[str, Callable[[float], dict[str, float]]] = {
    "newton_cg": lambda unit: {"damping": 1e-3 * unit**2},
    "nystrom_newton_cg": lambda unit: {"damping": 1e-1 * unit**2},
    "hessian_free": lambda unit: {"damping": unit**2},
    "trust_newton_cg": lambda unit: {"radius": 1 / unit},
    "trust_gltr": lambda unit: {"radius": 1 / unit},
    "cubic_newton": lambda unit: {"sigma": unit**3},
    "capped_newton_cg": lambda unit: {"gtol": 1e-8 * unit, "epsilon": 1e-8 * unit**2, "eta": 1e-8 * unit**3},
}
"""Those whose options have units: what they are where one unit of the function's own is so many of the parameters'."""
FULLY = ("levenberg_marquardt",)
"""Methods that do not depend on the units of single parameters either."""
LEAVE = ("newton", "saddle_free_newton", "curvilinear_newton", "trust_gltr", "cubic_newton")
METHODS = [method for method in GLOBALIZED if method.name != "sls"]


def positions(
    method: Method,
    scale: float = 1.0,
    units: Sequence[float] = (1.0, 1.0, 1.0),
    first_rate: float = 1.0,
    **options: Any,
) -> list[Tensor]:
    """Where 12 steps with default options lead on a Rosenbrock function of scaled parameters, times a scale."""
    unit = torch.tensor(units, dtype=torch.float64)
    start = torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64)
    objective = function(lambda x: scale * (rosenbrock(unit * x) + 1.0), (start / unit).tolist())
    curvature = {"curvature": "hessian"} if method.name in ON_OUTPUTS else {}
    optimizer = ho.create(method.name, objective.model.parameters(), **curvature, **options)
    visited = []
    for step in range(12):
        optimizer.param_groups[0]["lr"] = first_rate if step == 0 else 1.0
        optimizer.step(objective)
        visited.append(unit * objective.position())
    return visited


@each(METHODS)
def test_a_function_times_a_number_is_minimised_by_the_same_steps(method: Method) -> None:
    wanted = positions(method)
    same = [all(map(torch.equal, wanted, positions(method, scale))) for scale in (2.0**-20, 2.0**20)]
    assert all(same) is (method.name not in DEPENDS), DEPENDS.get(method.name, "depends on the function's units")


@each(METHODS)
def test_parameters_in_another_unit_take_the_same_steps(method: Method) -> None:
    wanted = positions(method)
    in_units = OPTIONS_OF_PARAMETERS.get(method.name, lambda unit: {})
    for unit in (2.0**-20, 2.0**44):
        same = all(map(torch.equal, wanted, positions(method, units=[unit] * 3, **in_units(unit))))
        assert same is (method.name not in OF_PARAMETERS), OF_PARAMETERS.get(method.name, "depends on the unit")
        if method.name in OPTIONS_OF_PARAMETERS:
            assert not all(map(torch.equal, wanted, positions(method, units=[unit] * 3)))


@pytest.mark.parametrize(("name", "options"), [("bfgs", {}), ("lbfgs", {}), ("ssbroyden", {"update": "ssbfgs"})])
def test_after_its_first_trial_a_quasi_newton_method_does_not_depend_on_the_unit(
    name: str, options: dict[str, Any]
) -> None:
    # The first pair scales the matrix, so what is left is the first trial, of length 1 in the sum of its entries.
    wanted = positions(Method(name), **options)
    for unit in (2.0**-6, 2.0**20):
        reached = positions(Method(name), units=[unit] * 3, first_rate=1 / unit, **options)
        assert all(map(torch.equal, wanted, reached))


@each([method for method in METHODS if method.name not in OF_PARAMETERS])
def test_parameters_in_units_of_their_own_take_the_same_steps_where_their_metric_follows(method: Method) -> None:
    units = [1.0, 2.0**12, 2.0**-9]
    same = all(map(torch.equal, positions(method), positions(method, units=units)))
    assert same is (method.name in FULLY)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e6, 1e9])
@pytest.mark.parametrize("name", [name for name in LEAVE if name != "curvilinear_newton"])  # d has a length of its own
def test_a_saddle_is_left_in_any_unit_of_the_parameters(name: str, unit: float) -> None:
    objective = function(lambda x: saddle(x / unit) + 3.0, [0.5 * unit, 0.0])
    options = OPTIONS_OF_PARAMETERS.get(name, lambda unit: {})(1 / unit)
    optimizer = ho.create(name, objective.model.parameters(), **options)
    for _ in range(60):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(2.5, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", LEAVE)
def test_a_saddle_is_left_in_any_units(name: str, scale: float) -> None:
    objective = function(lambda x: scale * (saddle(x) + 3.0), [0.5, 0.0])
    # The weight of the cubic term is in the function's units, and says so.
    options = {"sigma": scale} if name == "cubic_newton" else {}
    optimizer = ho.create(name, objective.model.parameters(), **options)
    for _ in range(40):
        optimizer.step(objective)
    assert objective.value() == pytest.approx(2.5 * scale, rel=1e-9)
