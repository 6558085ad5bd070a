"""Products with long rows: right in every layout, and the same to the last bit wherever the rows came from."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor

import hybridopt as ho
from hybridopt.optimizers import long_rows

CPU = torch.device("cpu")
SHAPES = [(3, 50), (16, 65_536), (16, 70_001), (1, 2**20 + 3)]


def rows(count: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return long_rows.zeros(count, n, dtype=dtype, device=CPU).copy_(torch.randn(count, n, generator=generator))


def vector(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize(("count", "n"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_dense_matrices(count: int, n: int, dtype: torch.dtype) -> None:
    matrix, v = rows(count, n, dtype), vector(n, dtype)
    factors = vector(count, dtype)
    exact, tolerance = matrix.double(), 2e-5 if dtype == torch.float32 else 1e-12
    products = long_rows.inner(matrix, v)
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, exact @ v.double(), rtol=tolerance, atol=tolerance * n**0.5)
    wanted = (-0.5 * v.double() + factors.double() @ exact).to(dtype)
    torch.testing.assert_close(long_rows.combine(matrix, factors, v, beta=-0.5), wanted, rtol=1e-5, atol=1e-5)
    out = torch.full_like(v, torch.nan)
    assert long_rows.combine(matrix, factors, v, beta=-0.5, out=out) is out
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert long_rows.combine(matrix, factors, v, beta=-0.5, out=v) is v
    torch.testing.assert_close(v, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "n"), [*SHAPES, (3, 1_000_003), (4000, 600)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", ["new", "other", "vector"])
def test_a_combination_and_its_products_are_those_taken_one_by_one(
    count: int, n: int, threads: int, place: str
) -> None:
    matrix, v, factors = rows(count, n), vector(n), vector(count)
    wanted = long_rows.combine(matrix, factors, v, beta=-0.5)
    out = {"new": None, "other": torch.full_like(v, torch.nan), "vector": v}[place]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        combined, products = long_rows.combine_inner(matrix, factors, v, beta=-0.5, out=out)
    finally:
        torch.set_num_threads(before)
    assert out is None or combined is out
    torch.testing.assert_close(combined, wanted, rtol=1e-12, atol=1e-10)
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, long_rows.inner(matrix, wanted), rtol=1e-11, atol=1e-8)


@pytest.mark.parametrize(("count", "n"), SHAPES)
def test_large_rows_begin_at_cache_lines_and_stay_there(count: int, n: int) -> None:
    matrix = rows(count, n)
    assert long_rows.settled(matrix) is matrix
    moved = torch.empty(count * n + 1, dtype=torch.float64)[1:].view(count, n).copy_(matrix)
    again = long_rows.settled(moved)
    assert torch.equal(again, matrix)
    assert matrix.stride() == again.stride() or count * n < 2**20
    if count * n >= 2**20:
        assert again.data_ptr() % 64 == 0
        assert again.stride(0) * 8 % 64 == 0


def test_a_large_lbfgs_goes_on_from_a_checkpoint_to_the_last_bit() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(301, 443), torch.nn.Tanh(), torch.nn.Linear(443, 3))
    inputs, targets = torch.randn(8, 301), torch.randn(8, 3)
    twin = copy.deepcopy(model)

    def objective(of: torch.nn.Module) -> ho.Objective:
        return ho.Objective(of, torch.nn.functional.mse_loss, inputs, targets, key="data")

    optimizer = ho.create("lbfgs", model.parameters(), history=8)
    for _ in range(3):
        optimizer.step(objective(model))
    assert optimizer.memory["pairs"]["steps"].stride(0) % 16 == 0, "these rows are to be large ones"
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin.load_state_dict(saved["model"])
    other = ho.create("lbfgs", twin.parameters(), history=8)
    other.load_state_dict(saved["optimizer"])
    for _ in range(3):
        assert optimizer.step(objective(model)) == other.step(objective(twin))
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
