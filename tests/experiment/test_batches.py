"""Which samples a step sees."""

from __future__ import annotations

import pytest
import torch

from hybridopt.core import ConfigError
from hybridopt.data.batches import LARGE, Batches
from hybridopt.tasks import Split


def data(n: int) -> Split:
    return Split(torch.arange(n, dtype=torch.float32).unsqueeze(1), torch.arange(n))


def test_an_epoch_sees_every_sample_once_in_a_new_order() -> None:
    batches = Batches(data(12), 4, 4, seed=0)
    epochs = [torch.cat([batches.batch(3 * epoch + i)[1] for i in range(3)]) for epoch in range(2)]
    assert batches.steps_per_epoch == 3
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_depends_on_seed_and_step_only() -> None:
    first, second = Batches(data(20), 5, 5, seed=3), Batches(data(20), 5, 5, seed=3)
    for step in range(3):
        first.batch(step)
    inputs, targets, key = first.batch(9)
    again = second.batch(9)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert key == again[2]
    assert not torch.equal(inputs, Batches(data(20), 5, 5, seed=4).batch(9)[0])


def test_an_incomplete_batch_is_left_out() -> None:
    batches = Batches(data(11), 4, 4, seed=0)
    assert batches.steps_per_epoch == 2
    assert {len(batches.batch(step)[0]) for step in range(6)} == {4}


def test_the_full_batch_is_the_data_itself() -> None:
    split = data(10)
    batches = Batches(split, "full", 2, seed=0)
    assert batches.full
    assert batches.batch(7)[0] is split.inputs
    assert batches.batch(0)[2] == batches.batch(7)[2]


def test_large_is_capped_by_the_data() -> None:
    assert Batches(data(10), "large", 2, seed=0).size == 10
    assert Batches(data(100), "large", 2, seed=0).size == 2 * LARGE


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the training set of 10 samples"):
        Batches(data(10), 11, 2, seed=0)
