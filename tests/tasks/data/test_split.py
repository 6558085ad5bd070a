from __future__ import annotations

import pytest
import torch

from hybridopt.core import DataError
from hybridopt.tasks.data import generator, partition, standardize


def test_streams_are_reproducible_and_distinct():
    def draw(seed, stream):
        return torch.rand(4, generator=generator(seed, stream)).tolist()

    assert draw(0, "train") == draw(0, "train")
    assert draw(0, "train") != draw(1, "train")
    assert draw(0, "train") != draw(0, "test")
    assert draw(-3, "train") != draw(3, "train")


def test_partition_is_disjoint_complete_and_shuffled():
    parts = partition(100, (0.5, 0.3, 0.2), seed=1)
    assert [len(part) for part in parts] == [50, 30, 20]
    assert sorted(torch.cat(parts).tolist()) == list(range(100))
    assert parts[0].tolist() != sorted(parts[0].tolist())
    assert torch.equal(parts[0], partition(100, (0.5, 0.3, 0.2), seed=1)[0])
    assert not torch.equal(parts[0], partition(100, (0.5, 0.3, 0.2), seed=2)[0])


def test_partition_keeps_class_shares():
    labels = torch.cat([torch.zeros(60), torch.ones(30), torch.full((10,), 2)]).long()
    parts = partition(100, (0.7, 0.2, 0.1), seed=0, labels=labels)
    assert [labels[part].bincount().tolist() for part in parts] == [[42, 21, 7], [12, 6, 2], [6, 3, 1]]
    assert sorted(torch.cat(parts).tolist()) == list(range(100))
    first = labels[parts[0]]
    assert not torch.equal(first, first.sort().values), "parts must not be sorted by class"


def test_partition_has_exact_sizes_whatever_the_classes():
    torch.manual_seed(0)
    labels = torch.randint(0, 10, (601,)) ** 2 % 7
    parts = partition(601, (5 / 6, 1 / 12, 1 / 12), seed=0, labels=labels)
    plain = partition(601, (5 / 6, 1 / 12, 1 / 12), seed=0)
    assert [len(part) for part in parts] == [len(part) for part in plain] == [501, 50, 50]
    for part, share in zip(parts, (5 / 6, 1 / 12, 1 / 12), strict=True):
        difference = labels[part].bincount(minlength=7) - share * labels.bincount(minlength=7)
        assert difference.abs().max() <= 1.5


@pytest.mark.parametrize("shares", [(0.5, 0.4), (1.5, -0.5)])
def test_partition_refuses_wrong_shares(shares):
    with pytest.raises(DataError, match="sum to 1"):
        partition(10, shares, seed=0)


def test_partition_refuses_empty_parts_and_odd_labels():
    with pytest.raises(DataError, match="too few"):
        partition(2, (0.5, 0.25, 0.25), seed=0)
    with pytest.raises(DataError, match="too few"):
        partition(0, (0.5, 0.5), seed=0, labels=torch.zeros(0).long())
    with pytest.raises(DataError, match="labels of shape"):
        partition(10, (0.5, 0.5), seed=0, labels=torch.zeros(9).long())


def test_standardize_uses_training_statistics_only():
    torch.manual_seed(0)
    train, other = 3 + 5 * torch.randn(50, 4), torch.randn(20, 4)
    scaled, moved = standardize(train, other)
    assert scaled.mean().abs() < 1e-5
    assert abs(scaled.std(correction=0) - 1) < 1e-5
    torch.testing.assert_close(moved, (other - train.mean()) / train.std(correction=0))
    assert scaled.dtype == torch.float32


def test_standardize_per_feature_survives_constant_features():
    train = torch.stack([torch.arange(7.0), torch.full((7,), 0.1), torch.zeros(7)], dim=1)
    scaled, moved = standardize(train, train + 1, per_feature=True)
    torch.testing.assert_close(scaled[:, 0].std(correction=0), torch.tensor(1.0))
    torch.testing.assert_close(scaled[:, 1:], torch.zeros(7, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(moved[:, 1:], torch.ones(7, 2))


def test_standardize_refuses_nan():
    with pytest.raises(DataError, match="NaN"):
        standardize(torch.tensor([[1.0, float("nan")]]))
