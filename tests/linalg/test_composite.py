"""Block-diagonal operators, submatrices and inverses against dense ones."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import CombinationError, ConfigError, NonFiniteError
from hybridopt.linalg.composite import Blocks, Diagonal, Inverse, Submatrix
from hybridopt.linalg.operator import Dense, Identity

FLOAT = torch.float64


def positive(n: int, seed: int = 0) -> torch.Tensor:
    half = torch.randn(n, n, dtype=FLOAT, generator=torch.Generator().manual_seed(seed))
    return half @ half.T + 0.1 * torch.eye(n, dtype=FLOAT)


def test_blocks():
    parts = [positive(3), positive(2, 1), positive(4, 2)]
    operator = Blocks([Dense(part) for part in parts[:2]] + [Dense(parts[2])])
    wanted = torch.block_diag(*parts)
    torch.testing.assert_close(operator.dense(), wanted)
    vector = torch.randn(9, dtype=FLOAT)
    torch.testing.assert_close(operator @ vector, wanted @ vector)
    matrix = torch.randn(9, 2, dtype=FLOAT)
    torch.testing.assert_close((operator + 2 * Identity()) @ matrix, (wanted + 2 * torch.eye(9)) @ matrix)
    assert not operator.positive_semidefinite
    assert Blocks([Diagonal(torch.ones(2))]).positive_semidefinite


def test_blocks_must_fit():
    with pytest.raises(CombinationError):
        Blocks([])
    with pytest.raises(CombinationError):
        Blocks([Dense(torch.eye(2)), Dense(torch.eye(2, dtype=FLOAT))])


def test_diagonal():
    values = torch.tensor([1.0, -2.0, 4.0], dtype=FLOAT)
    operator = Diagonal(values)
    assert torch.equal(operator.dense(), torch.diag(values))
    assert not operator.positive_semidefinite
    assert torch.equal(operator.inverse_apply(torch.ones(3, dtype=FLOAT), 1.0), 1 / (values.abs() + 1))
    with pytest.raises(ConfigError, match="flat"):
        Diagonal(torch.eye(2))


@pytest.mark.parametrize("index", [slice(2, 5), slice(None, None, 2), torch.tensor([4, 0, 3])])
def test_submatrix(index):
    matrix = positive(6)
    chosen = torch.arange(6)[index]
    torch.testing.assert_close(Submatrix(Dense(matrix), index).dense(), matrix[chosen][:, chosen])


@pytest.mark.parametrize(
    "index", [slice(3, 3), torch.tensor([1, 1]), torch.tensor([6]), torch.tensor([-1]), torch.ones(6, dtype=torch.bool)]
)
def test_submatrix_refuses(index):
    with pytest.raises(ConfigError):
        Submatrix(Dense(positive(6)), index)


def test_inverse():
    matrix = positive(12)
    vector = torch.randn(12, 2, dtype=FLOAT)
    operator = Inverse(Dense(matrix))
    torch.testing.assert_close(operator @ vector, torch.linalg.solve(matrix, vector), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(operator.dense(), torch.linalg.inv(matrix), rtol=1e-8, atol=1e-8)
    assert torch.equal(operator @ torch.zeros(12, dtype=FLOAT), torch.zeros(12, dtype=FLOAT))
    preconditioned = Inverse(Dense(matrix), preconditioner=lambda r: r / matrix.diagonal())
    torch.testing.assert_close(preconditioned @ vector, operator @ vector, rtol=1e-8, atol=1e-8)


def test_inverse_refuses():
    with pytest.raises(ConfigError, match="not positive definite"):
        Inverse(Dense(torch.diag(torch.tensor([1.0, -1.0])))) @ torch.ones(2)
    with pytest.raises(ConfigError, match="Raise max_iter"):
        Inverse(Dense(positive(12)), max_iter=2) @ torch.ones(12, dtype=FLOAT)
    with pytest.raises(NonFiniteError):
        Inverse(Dense(torch.full((2, 2), float("nan")))) @ torch.ones(2)
