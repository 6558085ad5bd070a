"""Eigenpairs, diagonal, trace, density and the SciPy view of curvature against dense references."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from hybridopt.curvature import GaussNewton, Hessian
from tests.cases import BY_NAME, Case, cases
from tests.curvature.reference import objective_of, reference, relative_error

SELECTED = cases("mlp_tanh", "cnn_max_pool", "batch_norm_train", "lstm")


@SELECTED
@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
def test_extreme_eigenvalues(case: Case, which: str):
    values, vectors = Hessian(objective_of(case, torch.float64)).eigsh(k=3, which=which)
    dense = reference(case).hessian
    spectrum = np.linalg.eigvalsh(dense.numpy())
    if which == "LM":
        wanted = np.sort(spectrum[np.argsort(-abs(spectrum))[:3]])
    else:
        wanted = spectrum[:3] if which == "SA" else spectrum[-3:]
    np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-9, atol=1e-10 * abs(spectrum).max())
    residual = (dense @ vectors - vectors * values).norm()
    assert residual < 1e-8 * abs(spectrum).max()


def test_eigenvalues_in_float32():
    case = BY_NAME["mlp_tanh"]
    values, vectors = Hessian(objective_of(case)).eigsh(k=2, which="LA")
    assert values.dtype == vectors.dtype == torch.float32
    wanted = np.linalg.eigvalsh(reference(case).hessian.numpy())[-2:]
    np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-4)


@SELECTED
def test_exact_diagonal_and_trace(case: Case):
    hessian = Hessian(objective_of(case, torch.float64))
    dense = reference(case).hessian
    assert relative_error(hessian.diagonal(), dense.diagonal()) < 1e-11
    assert hessian.trace() == pytest.approx(dense.trace().item(), rel=1e-10, abs=1e-12)


@SELECTED
def test_scipy_view(case: Case):
    operator = GaussNewton(objective_of(case, torch.float32)).to_scipy()
    assert isinstance(operator, scipy.sparse.linalg.LinearOperator)
    assert operator.dtype == np.float64
    vector = np.random.default_rng(0).standard_normal(operator.shape[0])
    product = operator @ vector
    assert product.dtype == np.float64
    assert relative_error(torch.from_numpy(product), reference(case).gauss_newton @ torch.from_numpy(vector)) < 1e-4
    np.testing.assert_array_equal(operator.rmatvec(vector), product)
    matrix = np.stack([vector, -vector], axis=1)
    np.testing.assert_allclose(operator @ matrix, np.stack([product, -product], axis=1))


def test_scipy_solves_with_it():
    case = BY_NAME["mlp_tanh"]
    gauss_newton = GaussNewton(objective_of(case, torch.float64))
    from hybridopt.curvature import Identity

    damped = (gauss_newton + 0.1 * Identity()).to_scipy()
    right = np.ones(gauss_newton.n)
    solution, flag = scipy.sparse.linalg.cg(damped, right, rtol=1e-12)
    assert flag == 0
    dense = reference(case).gauss_newton.numpy() + 0.1 * np.eye(gauss_newton.n)
    np.testing.assert_allclose(solution, np.linalg.solve(dense, right), rtol=1e-8)


def test_spectral_density_has_mass_one_and_the_mean_eigenvalue():
    case = BY_NAME["mlp_tanh"]
    hessian = Hessian(objective_of(case, torch.float64))
    points, density = hessian.spectral_density(
        2048, probes=15, steps=hessian.n, generator=torch.Generator().manual_seed(0)
    )
    assert torch.trapezoid(density, points).item() == pytest.approx(1.0, abs=1e-3)
    spectrum = torch.linalg.eigvalsh(reference(case).hessian)
    mean = torch.trapezoid(points * density, points).item()
    assert mean == pytest.approx(spectrum.mean().item(), abs=0.2 * spectrum.std().item())
