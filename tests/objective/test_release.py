"""A released point gives no products, and keeps what needs no graph."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import StaleOperatorError
from tests.cases import BY_NAME
from tests.curvature.reference import objective_of


@pytest.fixture
def objective():
    return objective_of(BY_NAME["mlp_tanh"])


def test_products_raise(objective):
    point = objective.at()
    hessian, gauss_newton = point.hessian(), point.gauss_newton()
    point.release()
    for operator in (hessian, gauss_newton, point.hessian(), point.gauss_newton()):
        with pytest.raises(StaleOperatorError, match="released"):
            operator @ torch.ones(objective.space.n)


def test_value_and_gradient_stay(objective):
    point = objective.at()
    value, gradient, loss = point.value, point.gradient.clone(), point.loss.clone()
    point.release()
    assert point.value == value
    assert torch.equal(point.gradient, gradient)
    assert torch.equal(point.loss, loss)


def test_with_block_releases(objective):
    with objective.at() as point:
        product = point.hessian() @ torch.ones(objective.space.n)
    assert product.shape == (objective.space.n,)
    with pytest.raises(StaleOperatorError, match="released"):
        point.hessian() @ torch.ones(objective.space.n)


def test_with_block_releases_after_an_error(objective):
    with pytest.raises(KeyError), objective.at() as point:
        raise KeyError
    with pytest.raises(StaleOperatorError, match="released"):
        point.hessian() @ torch.ones(objective.space.n)


def test_twice_is_fine(objective):
    point = objective.at()
    point.release()
    point.release()


def test_other_points_are_not_affected(objective):
    first, second = objective.at(), objective.at()
    first.release()
    assert (second.hessian() @ torch.ones(objective.space.n)).isfinite().all()


def test_value_is_that_of_the_point_wherever_the_model_goes(objective):
    bound = objective.bind([{"params": objective.space.parameters, "weight_decay": 0.5}], regularize=True)
    wanted = bound.value()
    point = bound.at()
    bound.commit(3 * bound.position())
    assert point.value == pytest.approx(wanted, rel=1e-6)
