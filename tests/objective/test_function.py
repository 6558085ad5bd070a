"""Plain functions of one tensor, a list or a dict of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch

from hybridopt.core import CombinationError, ObjectiveError
from hybridopt.curvature import Hessian
from hybridopt.objective import FunctionModule, Objective


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_rosenbrock_against_scipy():
    x0 = np.array([-1.2, 1.0, 0.7, 1.5])
    objective = Objective.from_function(rosenbrock, torch.from_numpy(x0))
    value, gradient = objective.value_and_grad()
    assert value == pytest.approx(scipy.optimize.rosen(x0), rel=1e-14)
    np.testing.assert_allclose(gradient.numpy(), scipy.optimize.rosen_der(x0), rtol=1e-13)
    np.testing.assert_allclose(Hessian(objective).dense().numpy(), scipy.optimize.rosen_hess(x0), rtol=1e-13)


def test_a_list():
    def f(x):
        assert isinstance(x, list)
        return (x[0] ** 2).sum() * x[1]

    objective = Objective.from_function(f, [torch.tensor([1.0, 2.0]), torch.tensor(3.0)])
    value, gradient = objective.value_and_grad()
    assert value == 15
    assert gradient.tolist() == [6, 12, 5]
    assert objective.value(torch.tensor([0.0, 1.0, 2.0])) == 2
    assert Hessian(objective).dense().tolist() == [[6, 0, 2], [0, 6, 4], [2, 4, 0]]


def test_a_dict():
    def f(x):
        assert list(x) == ["slope", "offset"]
        return (x["slope"] * 2 + x["offset"] - 1) ** 2

    objective = Objective.from_function(f, {"slope": torch.tensor(1.0), "offset": torch.tensor(3.0)})
    assert objective.value() == 16
    assert objective.value_and_grad()[1].tolist() == [16, 8]
    assert objective.model.result() == {"slope": 1.0, "offset": 3.0}


def test_the_result_has_the_structure_of_the_start():
    for start in (torch.ones(2), [torch.ones(2), torch.ones(())], {"a": torch.ones(1), "b": torch.ones(2)}):
        module = FunctionModule(lambda x: torch.tensor(0.0), start)
        result = module.result()
        assert type(result) is type(start)
        assert not any(t.requires_grad for t in torch.utils._pytree.tree_leaves(result))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1)
        assert all((t == 1).all() for t in torch.utils._pytree.tree_leaves(result)), "the result must be a copy"


def test_the_start_is_copied():
    for start in (torch.ones(2), torch.ones(2, requires_grad=True), np.ones(2)):
        objective = Objective.from_function(lambda x: x.sum(), start)
        objective.commit(torch.zeros(2, dtype=objective.space.dtype))
        assert float(sum(start.tolist())) == 2


@pytest.mark.parametrize(
    ("start", "dtype"),
    [
        pytest.param(torch.ones(2, dtype=torch.float64), torch.float64, id="double"),
        pytest.param(np.ones(2), torch.float64, id="numpy"),
        pytest.param(np.ones(2, dtype=np.float32), torch.float32, id="numpy-single"),
        pytest.param([1.0, 2.0], torch.float32, id="numbers"),
        pytest.param([1, 2], torch.float32, id="integers-of-python"),
        pytest.param(3.0, torch.float32, id="one-number"),
    ],
)
def test_dtype_of_the_start(start, dtype):
    objective = Objective.from_function(lambda x: (x**2).sum(), start)
    assert objective.space.dtype == dtype
    assert objective.value_and_grad()[1].dtype == dtype


@pytest.mark.parametrize("start", [torch.ones(2, dtype=torch.int64), [torch.ones(2), torch.tensor(1)]])
def test_integer_tensors_are_refused(start):
    with pytest.raises(ObjectiveError, match=r"floating point, e.g. x0.double\(\)"):
        Objective.from_function(lambda x: x, start)


@pytest.mark.parametrize("start", [torch.ones(2, dtype=torch.complex64), torch.ones(2, dtype=torch.bool)])
def test_other_tensors_are_refused(start):
    with pytest.raises(ObjectiveError, match="dtype"):
        Objective.from_function(lambda x: x, start)


@pytest.mark.parametrize("start", [{}, torch.ones(0)])
def test_an_empty_start_is_refused(start):
    with pytest.raises(ObjectiveError, match="empty"):
        Objective.from_function(lambda x: x, start)


@pytest.mark.parametrize("start", [None, "abc", {"a": [torch.ones(2)]}, [torch.ones(2), [torch.ones(2)]], object()])
def test_other_starts_are_refused_in_words(start):
    with pytest.raises(ObjectiveError, match="must be a tensor, an array, numbers"):
        Objective.from_function(lambda x: x, start)


def test_a_function_is_needed():
    with pytest.raises(ObjectiveError, match="must be a function"):
        Objective.from_function(3.0, torch.ones(2))


def test_constants_have_no_gradient():
    objective = Objective.from_function(lambda x: torch.tensor(3.0), torch.ones(2))
    assert objective.value() == 3
    with pytest.raises(ObjectiveError, match="no graph"):
        objective.value_and_grad()


def test_linear_functions_have_zero_curvature():
    objective = Objective.from_function(lambda x: x.sum(), torch.ones(3))
    assert Hessian(objective).dense().count_nonzero() == 0
    values, _ = Hessian(objective).eigsh(1)
    assert values.item() == 0


def test_no_gauss_newton():
    with pytest.raises(CombinationError, match="Use the Hessian"):
        Objective.from_function(rosenbrock, torch.ones(3)).at().gauss_newton()


def test_random_functions_are_replayed():
    objective = Objective.from_function(lambda x: (x + torch.randn(3)).square().sum(), torch.ones(3))
    value = objective.value()
    assert objective.value() == value
    assert objective.value(torch.ones(3)) == value
    assert objective.at().value == value


def test_list_products_have_the_shapes_of_the_start():
    start = [torch.ones(2, 2), torch.tensor(1.0)]
    objective = Objective.from_function(lambda x: (x[0] ** 2).sum() * x[1], start)
    product = Hessian(objective) @ [torch.ones(2, 2), torch.tensor(0.0)]
    assert [p.shape for p in product] == [(2, 2), ()]
    assert product[1].item() == 8
