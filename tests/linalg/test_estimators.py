"""Diagonal, trace and spectral density: exact where they say so, and converging at the promised rate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hybridopt.core import ConfigError, NonFiniteError
from hybridopt.linalg.operator import Dense, Identity, SymmetricOperator

FLOAT = torch.float64


class Counted(SymmetricOperator):
    """A matrix that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], dtype=matrix.dtype)
        self.matrix, self.products = matrix, 0

    def _matvec(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vector


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_spectrum(values: Tensor) -> Tensor:
    """Returns a symmetric matrix with the given eigenvalues and random eigenvectors."""
    half = torch.randn(len(values), len(values), dtype=FLOAT, generator=torch.Generator().manual_seed(7))
    basis = torch.linalg.qr(half).Q
    return basis @ torch.diag(values) @ basis.T


def decaying(n: int = 60) -> Tensor:
    return with_spectrum(torch.arange(1, n + 1, dtype=FLOAT) ** -2.0)


@pytest.mark.parametrize("n", [1, 3, 64, 65, 130])
def test_exact_diagonal(n):
    half = torch.randn(n, n, generator=generator(), dtype=FLOAT)
    operator = Counted(half + half.T)
    torch.testing.assert_close(operator.diagonal(), operator.matrix.diagonal())
    assert operator.products == n
    assert operator.trace() == pytest.approx(operator.matrix.trace().item())


def test_exact_trace_is_a_sum_in_double_precision():
    # 2**24 + 1 is no float32: a sum in single precision would lose every one of the ones.
    operator = Dense(torch.diag(torch.tensor([2.0**24] + [1.0] * 100)))
    assert operator.trace() == 2**24 + 100


def test_estimated_diagonal_is_exact_for_diagonal_matrices():
    wanted = torch.arange(5.0)
    assert torch.equal(Dense(torch.diag(wanted)).diagonal(1, generator=generator()), wanted)


def test_estimated_diagonal_converges():
    operator = Counted(decaying())
    wanted = operator.matrix.diagonal()

    def error(samples: int) -> float:
        errors = [(operator.diagonal(samples, generator=generator(s)) - wanted).norm() for s in range(10)]
        return float(torch.stack(errors).square().mean().sqrt())

    few, many = error(10), error(1000)
    assert many == pytest.approx(few / 10, rel=0.3), "the error must fall with the square root of the samples"


def test_estimated_diagonal_is_unbiased():
    operator = Dense(decaying(12))
    mean = torch.stack([operator.diagonal(5, generator=generator(seed)) for seed in range(400)]).mean(0)
    spread = torch.stack([operator.diagonal(5, generator=generator(seed)) for seed in range(400)]).std(0) / 20
    assert ((mean - operator.matrix.diagonal()).abs() < 5 * spread + 1e-12).all()


def test_trace_estimate_uses_no_more_products_than_asked():
    for samples in (3, 4, 5, 30):
        operator = Counted(decaying())
        operator.trace(samples, generator=generator())
        assert operator.products == samples


def test_trace_estimate_is_exact_for_a_low_rank():
    spectrum = torch.zeros(50, dtype=FLOAT)
    spectrum[:4] = torch.tensor([5.0, -3.0, 2.0, 1.0])
    operator = Dense(with_spectrum(spectrum))
    assert operator.trace(15, generator=generator()) == pytest.approx(5.0, abs=1e-8)


def test_trace_estimate_converges_faster_than_hutchinson():
    operator = Dense(decaying())
    wanted = operator.matrix.trace().item()

    def errors(samples: int) -> tuple[float, float]:
        plus, plain = [], []
        for seed in range(20):
            plus.append(operator.trace(samples, generator=generator(seed)) - wanted)
            plain.append(operator.diagonal(samples, generator=generator(seed)).sum().item() - wanted)
        return (
            torch.tensor(plus).square().mean().sqrt().item(),
            torch.tensor(plain).square().mean().sqrt().item(),
        )

    few, many = errors(9), errors(36)
    assert many[0] < few[0] / 4, "Hutch++ must improve at least in proportion to its products"
    assert many[0] < many[1] / 4, "Hutch++ must beat Hutchinson at the same cost"


def test_trace_estimate_is_unbiased():
    operator = Dense(decaying(20))
    values = torch.tensor([operator.trace(6, generator=generator(seed)) for seed in range(400)], dtype=FLOAT)
    assert abs(values.mean() - operator.matrix.trace()) < 4 * values.std() / 20


@pytest.mark.parametrize("samples", [5, 400])
def test_trace_estimate_in_few_dimensions(samples):
    # More probes than dimensions: the range is everything, and the estimate exact.
    operator = Dense(torch.tensor([[2.0, 1.0], [1.0, -3.0]], dtype=FLOAT))
    assert operator.trace(samples, generator=generator()) == pytest.approx(-1.0, abs=1 if samples == 5 else 1e-12)


@pytest.mark.parametrize("samples", [-1, 0, 1, 2])
def test_trace_estimate_needs_three_products(samples):
    with pytest.raises(ConfigError, match="at least 3"):
        Dense(torch.eye(4)).trace(samples)


def test_diagonal_estimate_needs_a_product():
    with pytest.raises(ConfigError, match="at least 1"):
        Dense(torch.eye(4)).diagonal(0)


def test_estimates_repeat_with_their_generator():
    operator = Dense(decaying())
    state = torch.get_rng_state()
    for estimate in (
        lambda: operator.diagonal(3, generator=generator()),
        lambda: torch.tensor(operator.trace(6, generator=generator())),
        lambda: operator.spectral_density(50, generator=generator())[1],
    ):
        assert torch.equal(estimate(), estimate())
    assert torch.equal(torch.get_rng_state(), state), "a generator of its own must spare the default one"


def density_moments(operator: SymmetricOperator, **options) -> tuple[float, float, float]:
    points, density = operator.spectral_density(2048, generator=generator(), **options)
    assert points.dtype == density.dtype == FLOAT
    assert (density >= 0).all()
    mass, mean, square = (torch.trapezoid(points**k * density, points).item() for k in range(3))
    return mass, mean, square - mean**2


def test_density_of_a_known_spectrum():
    spectrum = torch.linspace(-2, 4, 30, dtype=FLOAT)
    mass, mean, variance = density_moments(Dense(with_spectrum(spectrum)), probes=30, steps=30)
    assert mass == pytest.approx(1.0, abs=1e-3)
    assert mean == pytest.approx(spectrum.mean().item(), abs=0.1)
    assert variance == pytest.approx(spectrum.var(correction=0).item(), rel=0.1)


def test_density_has_the_mean_of_the_probes():
    # The mean of the quadrature is exactly the average of z'Az / n over the probes, for any number of steps.
    matrix = torch.diag(torch.linspace(-1, 3, 40, dtype=FLOAT))
    for steps in (1, 5, 40):
        _, mean, _ = density_moments(Dense(matrix), probes=3, steps=steps)
        assert mean == pytest.approx(1.0, abs=1e-5)


def test_density_shows_separate_clusters():
    spectrum = torch.cat([torch.full((30,), 0.0), torch.full((10,), 5.0)]).double()
    points, density = Dense(with_spectrum(spectrum)).spectral_density(4096, probes=30, generator=generator())
    upper = points > 2.5
    assert torch.trapezoid(density[upper], points[upper]).item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6, -1e-8, 1e-20])
def test_density_of_a_multiple_of_the_identity(scale):
    mass, mean, _ = density_moments(Dense(scale * torch.eye(10, dtype=FLOAT)), probes=2)
    assert mass == pytest.approx(1.0, abs=1e-3)
    assert mean == pytest.approx(scale, rel=1e-5, abs=0.0 if scale else 1e-12)


def test_density_in_float32():
    mass, mean, _ = density_moments(Dense(decaying().float()), probes=5)
    assert mass == pytest.approx(1.0, abs=1e-3)
    assert mean == pytest.approx(density_moments(Dense(decaying()), probes=5)[1], rel=1e-4)


def test_density_at_given_points():
    points = torch.tensor([-1.0, 0.5, 1.0])
    found, density = Dense(decaying()).spectral_density(points, generator=generator())
    assert torch.equal(found, points.double())
    assert density.shape == (3,)


def test_density_of_one_dimension():
    points, density = Dense(torch.tensor([[2.0]])).spectral_density(1001)
    assert points[density.argmax()].item() == pytest.approx(2.0)


@pytest.mark.parametrize("option", ["probes", "steps"])
def test_density_needs_products(option):
    with pytest.raises(ConfigError, match="at least 1"):
        Dense(torch.eye(4)).spectral_density(**{option: 0})


def test_density_of_what_is_not_finite():
    with pytest.raises(NonFiniteError, match="not finite"):
        Dense(torch.full((4, 4), float("inf"))).spectral_density()


def test_estimators_serve_sums():
    shifted = Dense(decaying()) + 2.0 * Identity()
    assert shifted.trace() == pytest.approx(decaying().trace().item() + 120)
    torch.testing.assert_close(shifted.diagonal(), decaying().diagonal() + 2)
