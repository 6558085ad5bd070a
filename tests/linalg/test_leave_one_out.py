"""XTrace, XDiag and log-determinants: exact on a low rank, unbiased, within their budget, and better than the plain."""

from __future__ import annotations

import itertools

import pytest
import torch

from hybridopt.core import ConfigError, NonFiniteError
from hybridopt.linalg.operator import Dense, Identity
from tests.linalg.test_estimators import FLOAT, Counted, decaying, generator, with_spectrum


def of_rank(rank: int, n: int = 40) -> torch.Tensor:
    spectrum = torch.zeros(n, dtype=FLOAT)
    spectrum[:rank] = torch.tensor([5.0, -3.0, 2.0, 1.0], dtype=FLOAT)[:rank]
    return with_spectrum(spectrum)


@pytest.mark.parametrize("samples", [2, 3, 8, 31, 500])
def test_no_more_products_than_asked(samples):
    operator = Counted(decaying())
    operator.trace(samples, method="xtrace", generator=generator())
    assert operator.products <= samples
    operator.products = 0
    operator.diagonal(samples, method="xdiag", generator=generator())
    assert operator.products <= samples


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_exact_on_a_low_rank(rank):
    operator = Dense(of_rank(rank))
    assert operator.trace(10, method="xtrace", generator=generator()) == pytest.approx(
        operator.matrix.trace().item(), abs=1e-8
    )
    found = operator.diagonal(10, method="xdiag", generator=generator())
    torch.testing.assert_close(found, operator.matrix.diagonal(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_exact_where_the_products_suffice_for_every_column(n):
    half = torch.randn(n, n, generator=generator(), dtype=FLOAT)
    operator = Dense(half + half.T)
    assert operator.trace(100, method="xtrace", generator=generator()) == pytest.approx(operator.matrix.trace().item())
    torch.testing.assert_close(
        operator.diagonal(100, method="xdiag", generator=generator()), operator.matrix.diagonal()
    )


def test_the_mean_over_all_signs_is_exact(monkeypatch):
    # Every pair of sign vectors once, parallel ones too: the mean over them is the expectation.
    from hybridopt.linalg import estimators

    half = torch.randn(5, 5, dtype=FLOAT, generator=generator())
    operator = Dense(half + half.T)
    signs = [torch.tensor(s, dtype=FLOAT) for s in itertools.product((-1.0, 1.0), repeat=5)]
    traces, diagonals = [], []
    for pair in itertools.product(signs, repeat=2):
        monkeypatch.setattr(estimators, "rademacher", lambda *_, pair=pair: torch.stack(pair, dim=1))
        traces.append(operator.trace(4, method="xtrace"))
        diagonals.append(operator.diagonal(4, method="xdiag"))
    assert sum(traces) / len(traces) == pytest.approx(operator.matrix.trace().item(), rel=1e-10)
    torch.testing.assert_close(torch.stack(diagonals).mean(0), operator.matrix.diagonal(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["xtrace", "xdiag"])
def test_unbiased(method):
    operator = Dense(decaying(20))
    if method == "xtrace":
        values = torch.tensor(
            [operator.trace(6, method=method, generator=generator(seed)) for seed in range(400)], dtype=FLOAT
        )[:, None]
        wanted = operator.matrix.trace()[None]
    else:
        values = torch.stack([operator.diagonal(6, method=method, generator=generator(seed)) for seed in range(400)])
        wanted = operator.matrix.diagonal()
    assert ((values.mean(0) - wanted).abs() < 5 * values.std(0) / 20).all()


def rms(errors: list[torch.Tensor]) -> float:
    return float(torch.stack(errors).square().mean().sqrt())


def test_better_than_the_plain_estimates_where_the_spectrum_decays():
    operator = Dense(decaying())
    trace, diagonal = operator.matrix.trace(), operator.matrix.diagonal()

    def of(method: str, samples: int) -> float:
        if method in ("xdiag", "diagonal"):
            name = "xdiag" if method == "xdiag" else "hutchinson"
            return rms([operator.diagonal(samples, method=name, generator=generator(s)) - diagonal for s in range(20)])
        return rms([operator.trace(samples, method=method, generator=generator(s)) - trace for s in range(20)])

    assert of("xtrace", 30) < 0.1 * of("hutchinson", 30)
    assert of("xtrace", 30) < of("hutch++", 30)
    assert of("xtrace", 40) < of("xtrace", 10) / 8
    assert of("xdiag", 40) < 0.3 * of("diagonal", 40)


def test_estimates_in_float32_and_of_zero():
    operator = Dense(decaying().float())
    assert operator.trace(30, method="xtrace", generator=generator()) == pytest.approx(
        float(operator.matrix.trace()), rel=2e-2
    )
    assert operator.diagonal(30, method="xdiag", generator=generator()).dtype == torch.float32
    zero = Dense(torch.zeros(6, 6))
    assert zero.trace(4, method="xtrace") == 0.0
    assert torch.equal(zero.diagonal(4, method="xdiag"), torch.zeros(6))


def test_methods_are_checked():
    operator = Dense(torch.eye(4))
    with pytest.raises(ConfigError, match="method must be"):
        operator.trace(10, method="xdiag")
    with pytest.raises(ConfigError, match="method must be"):
        operator.diagonal(10, method="xtrace")
    for call in (lambda: operator.trace(1, method="xtrace"), lambda: operator.diagonal(1, method="xdiag")):
        with pytest.raises(ConfigError, match="at least 2"):
            call()


def positive(n: int = 50) -> torch.Tensor:
    return with_spectrum(torch.logspace(-1, 1, n, dtype=FLOAT))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_log_determinant(shift):
    operator = Counted(positive())
    wanted = torch.logdet(operator.matrix + shift * torch.eye(50, dtype=FLOAT)).item()
    assert operator.log_determinant(shift=shift) == pytest.approx(wanted, abs=1e-9)
    operator.products = 0
    values = [operator.log_determinant(8, shift=shift, steps=25, generator=generator(s)) for s in range(60)]
    assert operator.products <= 60 * 8 * 25
    values = torch.tensor(values, dtype=FLOAT)
    assert abs(values.mean() - wanted) < 4 * values.std() / 60**0.5 + 1e-3
    assert values.std() < 5  # of 50 logarithms between -2.3 and 2.3


def test_log_determinant_quadrature_is_exact_with_all_steps():
    # One vector of signs with all Lanczos steps: n/|z|^2 z' log(A) z, here of a diagonal matrix the trace itself.
    values = torch.logspace(-2, 1, 12, dtype=FLOAT)
    found = Dense(torch.diag(values)).log_determinant(1, steps=12, generator=generator())
    assert found == pytest.approx(values.log().sum().item(), rel=1e-10)


@pytest.mark.parametrize("samples", [None, 4])
def test_log_determinant_needs_a_positive_definite_matrix(samples):
    indefinite = Dense(with_spectrum(torch.linspace(-1, 4, 20, dtype=FLOAT)))
    with pytest.raises(ConfigError, match=r"Add a multiple of the identity: shift=2\."):
        indefinite.log_determinant(samples)
    assert torch.isfinite(torch.tensor(indefinite.log_determinant(samples, shift=2.0)))
    with pytest.raises(ConfigError, match="positive definite"):
        Dense(of_rank(2).square() @ of_rank(2).square().T).log_determinant(samples)
    with pytest.raises(NonFiniteError):
        Dense(torch.full((4, 4), float("nan"))).log_determinant(samples)


def test_log_determinant_of_sums():
    shifted = Dense(positive()) + 2.0 * Identity()
    assert shifted.log_determinant() == pytest.approx(Dense(positive()).log_determinant(shift=2.0))
