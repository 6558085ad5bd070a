"""A function in other units: which methods take the same steps, and which constants keep the others from it."""

from __future__ import annotations

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
LEAVE = ("newton", "saddle_free_newton", "curvilinear_newton", "trust_gltr", "cubic_newton")
METHODS = [method for method in GLOBALIZED if method.name != "sls"]


def positions(method: Method, scale: float) -> list[Tensor]:
    """Where 12 steps with default options lead on a scaled Rosenbrock function."""
    objective = function(lambda x: scale * (rosenbrock(x) + 1.0), [-1.2, 1.0, 0.5])
    curvature = {"curvature": "hessian"} if method.name in ON_OUTPUTS else {}
    optimizer = ho.create(method.name, objective.model.parameters(), **curvature)
    visited = []
    for _ in range(12):
        optimizer.step(objective)
        visited.append(objective.position())
    return visited


@each(METHODS)
def test_a_function_times_a_number_is_minimised_by_the_same_steps(method: Method) -> None:
    # Powers of two do not change a rounding, so what does not depend on the scale is the same to the last bit.
    wanted = positions(method, 1.0)
    same = [all(map(torch.equal, wanted, positions(method, scale))) for scale in (2.0**-20, 2.0**20)]
    assert all(same) is (method.name not in DEPENDS), DEPENDS.get(method.name, "depends on the function's units")


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
