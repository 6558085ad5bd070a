"""The rules by which a jump is kept, undone, or given more time."""

from __future__ import annotations

import math

import pytest
import torch

from hybridopt.escape.verdict import MOST_WINDOWS, PATIENCE, mean_and_error, on_mini_batches, on_same_data


@pytest.mark.parametrize(("gain", "previous", "windows", "expected"), [
    (1e-3, 0.0, 1, "escaped"),
    (-1e-3, -1e-3, 1, "undone"),  # higher, and not falling
    (-1e-3, -2e-3, 1, "prolonged"),  # higher, but halved
    (-1e-3, -2e-3, MOST_WINDOWS, "undone"),
    (1e-9, 0.0, 1, "prolonged"),  # rounding says nothing
    (1e-9, 0.0, PATIENCE, "undone"),
    (math.nan, 0.0, 1, "undone"),
    (math.inf, 0.0, 1, "undone"),
])  # fmt: skip
def test_on_the_same_data(gain: float, previous: float, windows: int, expected: str) -> None:
    assert on_same_data(gain, 1e-6, previous, windows).decision == expected


@pytest.mark.parametrize(("gain", "windows", "expected"), [
    (0.1, 1, "escaped"),
    (0.01, 1, "prolonged"),  # no more than the progress that made the stall
    (0.01, PATIENCE, "kept"),
    (-0.01, 1, "undone"),
])  # fmt: skip
def test_slow_progress_is_no_escape(gain: float, windows: int, expected: str) -> None:
    assert on_same_data(gain, 1e-6, gain, windows, ordinary=0.05).decision == expected


LEVEL = [2.0, 2.1, 1.9, 2.0, 2.05, 1.95]


@pytest.mark.parametrize(("gains", "losses", "windows", "expected"), [
    ([0.5, 0.6, 0.4, 0.5], [1.5, 1.4, 1.6, 1.5], 1, "escaped"),
    ([0.5, 0.6, 0.4, 0.5], [2.0, 2.1, 1.9, 2.0], 1, "prolonged"),  # the snapshot was high, the stall was not
    ([0.5, 0.6, 0.4, 0.5], [2.0, 2.1, 1.9, 2.0], MOST_WINDOWS, "undone"),
    ([0.25, 0.75, 0.25, 0.75], [1.5, 1.4, 1.6, 1.5], 1, "escaped"),  # by 3.5 standard errors
    ([0.2, 0.8, 0.2, 0.8], [1.5, 1.4, 1.6, 1.5], 1, "prolonged"),  # by 2.9 only
    ([0.5, -0.6, 0.4, -0.5], [2.0, 2.1, 1.9, 2.0], 1, "prolonged"),
    ([0.5, -0.6, 0.4, -0.5], [2.0, 2.1, 1.9, 2.0], PATIENCE, "undone"),
    ([-0.5, -0.5, -0.4, -0.6], [2.5, 2.5, 2.4, 2.6], 1, "undone"),
    ([-4.0, -3.0, -2.0, -1.0], [6.0, 5.0, 4.0, 3.0], 1, "prolonged"),  # higher, but falling
    ([0.5, math.nan, 0.4, 0.5], [1.5, 1.4, 1.6, 1.5], 1, "undone"),
])  # fmt: skip
def test_on_mini_batches(gains: list[float], losses: list[float], windows: int, expected: str) -> None:
    assert on_mini_batches(gains, losses, LEVEL, None, windows).decision == expected


def test_noise_around_a_snapshot_that_is_high_by_bad_luck_is_hardly_ever_taken_for_an_escape() -> None:
    # At a minimum: running losses of mean 1 and spread 0.1, a snapshot that lies two spreads above them.
    random = torch.Generator().manual_seed(0)
    accepted = 0
    for _ in range(300):
        level = (1 + 0.1 * torch.randn(30, generator=random, dtype=torch.float64)).tolist()
        losses = (1 + 0.1 * torch.randn(20, generator=random, dtype=torch.float64)).tolist()
        gains = [1.2 - loss for loss in losses[10:]]
        accepted += on_mini_batches(gains, losses, level, None, 1).decision == "escaped"
    assert accepted <= 3


def test_the_error_of_a_mean() -> None:
    assert mean_and_error([1.0, 3.0]) == (2.0, pytest.approx(1.0))
    assert mean_and_error([1.0]) == (1.0, math.inf)
