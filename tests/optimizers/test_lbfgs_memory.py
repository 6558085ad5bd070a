"""The limited memory of L-BFGS against dense BFGS, the secant equation and Powell's damping."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridopt.optimizers.lbfgs_memory import PairMemory

N = 7


def vectors(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Pairs (s, H s) of a positive definite H, a little disturbed, so that s'y > 0."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(N, N, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(N, dtype=torch.float64)
    pairs = []
    for _ in range(count):
        s = torch.randn(N, generator=generator, dtype=torch.float64)
        noise = torch.randn(N, generator=generator, dtype=torch.float64)
        pairs.append((s, hessian @ s + 0.05 * noise))
    return pairs


def memory(capacity: int, state: dict[str, Any] | None = None) -> PairMemory:
    return PairMemory({} if state is None else state, capacity, N, dtype=torch.float64, device=torch.device("cpu"))


def dense_inverse(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The BFGS recursion for the inverse (Nocedal and Wright 2006, eq. 6.17) from gamma I."""
    s, y = pairs[-1]
    identity = torch.eye(N, dtype=torch.float64)
    inverse = (s @ y) / (y @ y) * identity
    for s, y in pairs:
        rho = 1 / (s @ y)
        left = identity - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    return inverse


def product_matrix(pairs: PairMemory) -> Tensor:
    return torch.stack([pairs.inverse_product(row) for row in torch.eye(N, dtype=torch.float64)])


@pytest.mark.parametrize(("capacity", "count"), [(1, 1), (3, 2), (3, 3), (3, 8), (10, 12), (20, 7)])
def test_products_equal_the_dense_recursion_over_the_last_pairs(capacity: int, count: int) -> None:
    pairs, stored = vectors(count), memory(capacity)
    for s, y in pairs:
        assert stored.push(s, y, damping=False)
    assert len(stored) == min(capacity, count)
    torch.testing.assert_close(product_matrix(stored), dense_inverse(pairs[-capacity:]), rtol=1e-10, atol=1e-12)


def test_the_secant_equation_holds_for_the_newest_pair_at_all_times() -> None:
    stored = memory(3)
    for s, y in vectors(9):
        stored.push(s, y, damping=False)
        torch.testing.assert_close(stored.inverse_product(y), s, rtol=1e-10, atol=1e-12)


def test_the_inverse_is_symmetric_positive_definite_whatever_is_pushed() -> None:
    generator = torch.Generator().manual_seed(1)
    for damping in (False, True):
        stored = memory(4)
        for _ in range(30):
            s, y = torch.randn(2, N, generator=generator, dtype=torch.float64)
            stored.push(s, y, damping=damping)
            inverse = product_matrix(stored)
            torch.testing.assert_close(inverse, inverse.T, rtol=1e-8, atol=1e-8 * float(inverse.abs().max()))
            assert torch.linalg.eigvalsh(inverse)[0] > 0


def test_an_empty_memory_is_the_identity() -> None:
    vector = torch.randn(N, dtype=torch.float64)
    product = memory(3).inverse_product(vector)
    assert torch.equal(product, vector)
    assert product.data_ptr() != vector.data_ptr()


@pytest.mark.parametrize("bend", [0.1, 0.0, -0.5, -3.0])
def test_powell_damping_keeps_a_fifth_of_the_models_curvature(bend: float) -> None:
    stored = memory(3)
    for s, y in vectors(2):
        stored.push(s, y, damping=True)
    model = 1 / stored.gamma
    s = torch.ones(N, dtype=torch.float64)
    y = bend * model * s
    assert stored.push(s, y, damping=True)
    head = 2  # the third of three places
    kept = stored._state["changes"][head]
    assert float(s @ kept) == pytest.approx(0.2 * model * float(s @ s), rel=1e-12)
    assert stored.damped == 1
    torch.testing.assert_close(stored.inverse_product(kept), s, rtol=1e-10, atol=1e-12)


def test_a_pair_with_enough_curvature_is_not_damped() -> None:
    s, y = vectors(1)[0]
    stored = memory(3)
    y = y * float(s @ s) / float(s @ y)  # s'y = s'Bs exactly
    stored.push(s, y, damping=True)
    assert stored.damped == 0
    assert torch.equal(stored._state["changes"][0], y)


@pytest.mark.parametrize(
    "y", [torch.zeros(N), -torch.ones(N), torch.full((N,), math.nan), torch.full((N,), math.inf)], ids=str
)
def test_bad_pairs_are_refused_and_counted(y: Tensor) -> None:
    stored = memory(3)
    s, good = vectors(1)[0]
    stored.push(s, good, damping=False)
    before = product_matrix(stored)
    assert not stored.push(torch.ones(N, dtype=torch.float64), y.double(), damping=False)
    assert (len(stored), stored.skipped) == (1, 1)
    assert torch.equal(product_matrix(stored), before)


def test_a_step_of_length_zero_is_refused_even_with_damping() -> None:
    stored = memory(3)
    assert not stored.push(torch.zeros(N, dtype=torch.float64), torch.ones(N, dtype=torch.float64), damping=True)
    assert (len(stored), stored.skipped) == (0, 1)


def test_clearing_drops_pairs_and_keeps_counts() -> None:
    state: dict[str, Any] = {}
    stored = memory(3, state)
    for s, y in vectors(5):
        stored.push(s, y, damping=False)
    stored.push(torch.ones(N, dtype=torch.float64), -torch.ones(N, dtype=torch.float64), damping=False)
    stored.clear()
    assert (len(stored), stored.skipped, stored.gamma) == (0, 1, 1.0)
    pairs = vectors(2, seed=5)
    for s, y in pairs:
        stored.push(s, y, damping=False)
    torch.testing.assert_close(product_matrix(stored), dense_inverse(pairs), rtol=1e-10, atol=1e-12)


def test_state_is_a_plain_dict_that_another_memory_goes_on_with() -> None:
    state: dict[str, Any] = {}
    stored = memory(3, state)
    for s, y in vectors(4):
        stored.push(s, y, damping=False)
    again = memory(3, dict(state))
    assert torch.equal(product_matrix(again), product_matrix(stored))
    assert len(again) == 3


def test_the_storage_is_allocated_once() -> None:
    state: dict[str, Any] = {}
    stored = memory(3, state)
    places = state["steps"].data_ptr(), state["changes"].data_ptr()
    for s, y in vectors(8):
        stored.push(s, y, damping=False)
    assert (state["steps"].data_ptr(), state["changes"].data_ptr()) == places


def test_pairs_of_another_length_are_dropped() -> None:
    state: dict[str, Any] = {}
    stored = memory(3, state)
    for s, y in vectors(2):
        stored.push(s, y, damping=False)
    shorter = PairMemory(state, 3, N - 2, dtype=torch.float64, device=torch.device("cpu"))
    assert len(shorter) == 0
    vector = torch.ones(N - 2, dtype=torch.float64)
    assert torch.equal(shorter.inverse_product(vector), vector)


@pytest.mark.parametrize("capacity", [3, 5, 30])
@pytest.mark.parametrize("kind", ["follows", "other vectors", "damped", "refused"])
def test_products_that_follow_one_another_equal_those_taken_anew(capacity: int, kind: str) -> None:
    # As in a run: v+ = v + y. The products S y are then differences of S v+ and S v, which they must equal.
    generator = torch.Generator().manual_seed(4)
    stored, twin = memory(capacity), memory(capacity)
    vector = torch.randn(N, generator=generator, dtype=torch.float64)
    for count, (s, y) in enumerate(vectors(12)):
        if kind == "damped" and count % 3 == 1:
            y = -y
        follows = kind != "other vectors"
        product = stored.inverse_product(vector, follows=follows)
        torch.testing.assert_close(product, twin.inverse_product(vector), rtol=1e-9, atol=1e-11)
        for one in (stored, twin):
            one.push(s, y, damping=kind == "damped")
        if kind == "refused" and count % 4 == 2:
            stored.push(s, -y, damping=False)
        vector = vector + y if follows else torch.randn(N, generator=generator, dtype=torch.float64)
        if kind == "refused" and count % 4 == 2:
            vector = vector - y


def test_a_short_change_is_not_taken_as_a_difference() -> None:
    # y is 1e-9 of v: the difference of the products would have lost nine digits.
    stored, twin = memory(4), memory(4)
    pairs = [(s, 1e-9 * y) for s, y in vectors(4)]
    vector = torch.ones(N, dtype=torch.float64)
    for s, y in pairs:
        stored.inverse_product(vector, follows=True)
        stored.push(s, y, damping=False)
        twin.push(s, y, damping=False)
        vector = vector + y
    torch.testing.assert_close(
        stored.inverse_product(vector, follows=True), twin.inverse_product(vector), rtol=1e-13, atol=0
    )


def test_pairs_are_handed_out_oldest_first() -> None:
    pairs, stored = vectors(5), memory(3)
    for s, y in pairs:
        stored.push(s, y, damping=False)
    steps, changes = stored.pairs()
    assert torch.equal(steps, torch.stack([s for s, _ in pairs[-3:]]))
    assert torch.equal(changes, torch.stack([y for _, y in pairs[-3:]]))
