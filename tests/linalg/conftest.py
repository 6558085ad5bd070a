"""Matrices and operators that the Krylov tests share."""

from __future__ import annotations

import pytest
import torch


def _random(n, seed):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    return basis, torch.randn(n, dtype=torch.float64, generator=generator)


def _spd(n, seed, condition=100.0):
    """A positive definite matrix with a geometric spectrum in [1, condition], and a right-hand side."""
    basis, b = _random(n, seed)
    spectrum = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    A = basis @ torch.diag(spectrum) @ basis.T
    return 0.5 * (A + A.T), b


def _symmetric(n, seed, low=-1.0, high=10.0):
    """An indefinite matrix with an even spectrum in [low, high], and a right-hand side."""
    basis, b = _random(n, seed)
    A = basis @ torch.diag(torch.linspace(low, high, n, dtype=torch.float64)) @ basis.T
    return 0.5 * (A + A.T), b


class _CountingOperator:
    """A matrix that counts its products and can answer one of them with a non-finite number."""

    def __init__(self, matrix, poison=None):
        self.matrix, self.poison, self.products = matrix, poison or {}, 0

    def __matmul__(self, vector):
        self.products += 1
        result = self.matrix @ vector
        if self.products in self.poison:
            result[0] = self.poison[self.products]
        return result


@pytest.fixture
def spd():
    """See `_spd`."""
    return _spd


@pytest.fixture
def symmetric():
    """See `_symmetric`."""
    return _symmetric


@pytest.fixture
def counting_operator():
    """See `_CountingOperator`."""
    return _CountingOperator
