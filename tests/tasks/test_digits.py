from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import hybridopt.tasks as tasks
from hybridopt.core import ConfigError

pytest.importorskip("sklearn")

SHAPES = {"digits_cnn": (1, 8, 8), "digits_rnn": (8, 8)}


@pytest.mark.parametrize("name", SHAPES)
def test_splits_hold_every_digit_once(name):
    from sklearn.datasets import load_digits

    splits = tasks.create(name).splits(0)
    assert {tuple(split.inputs.shape[1:]) for split in splits} == {SHAPES[name]}
    assert {split.inputs.dtype for split in splits} == {torch.float32}
    assert {split.targets.dtype for split in splits} == {torch.int64}
    assert sum(map(len, splits)) == 1797
    for split in splits:
        assert split.targets.bincount().min() > 0.08 * len(split), "stratified: every class in every part"
    # Back to counts of 0 to 16, the parts together are the data set.
    bunch = load_digits()
    pixels = torch.cat([split.inputs.flatten(1) for split in splits])
    low, high = pixels.min(), pixels.max()
    counts = ((pixels - low) / (high - low) * 16).round().numpy().astype(int)
    labels = torch.cat([split.targets for split in splits]).numpy()
    ours = np.unique(np.column_stack([counts, labels]), axis=0)
    theirs = np.unique(np.column_stack([bunch.data.astype(int), bunch.target]), axis=0)
    assert np.array_equal(ours, theirs)


def test_training_pixels_are_standardized():
    train = tasks.create("digits_cnn").splits(0).train.inputs
    assert abs(train.mean()) < 1e-5
    assert abs(train.std(correction=0) - 1) < 1e-5


def test_seed_decides_split_and_global_generator_is_left_alone():
    task = tasks.create("digits_cnn")
    state = torch.get_rng_state()
    first, second, other = task.splits(0), task.splits(0), task.splits(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert not torch.equal(first.train.targets, other.train.targets)


@pytest.mark.parametrize("name", SHAPES)
def test_trivial_loss_is_the_loss_of_the_prior(name):
    task = tasks.create(name)
    splits = task.splits(0)
    prior = splits.train.targets.bincount() / len(splits.train)
    said = task.loss(prior.log().expand(len(splits.train), -1), splits.train.targets)
    assert task.trivial_loss(splits) == pytest.approx(said.item(), rel=1e-6)
    assert task.trivial_loss(splits) == pytest.approx(math.log(10), abs=1e-2)
    assert task.trivial_loss(splits) == pytest.approx(tasks.Task.trivial_loss(task, splits), abs=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_model_fits_the_data(name):
    task = tasks.create(name)
    split = task.splits(0).validation
    outputs = task.model(0)(split.inputs)
    assert outputs.shape == (len(split), 10)
    assert task.loss(outputs, split.targets).shape == ()
    assert 0 <= task.metrics(outputs, split.targets)["accuracy"] <= 1


def test_accuracy():
    outputs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    metrics = tasks.create("digits_cnn").metrics(outputs, torch.tensor([1, 0, 0, 1]))
    assert set(metrics.values()) == {0.5}


def test_cells_and_sizes():
    for cell, blocks in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        model = tasks.create("digits_rnn", cell=cell, hidden=5, initialization="orthogonal").model(0)
        weight = model.recurrent.weight_hh_l0
        assert weight.shape == (blocks * 5, 5)
        for block in weight.split(5):
            torch.testing.assert_close(block @ block.T, torch.eye(5))
    bias = model.recurrent.bias_ih_l0 + model.recurrent.bias_hh_l0
    torch.testing.assert_close(bias[5:10], torch.ones(5))  # the forget gate of an LSTM starts open
    with pytest.raises(ConfigError, match=r"must be one of 'rnn', 'gru', 'lstm', not 'ltsm'. Did you mean 'lstm'\?"):
        tasks.create("digits_rnn", cell="ltsm")


def test_network_is_smooth():
    """Third differences of the loss along a line shrink with the cube of the step: no kinks on the way."""
    task = tasks.create("digits_cnn")
    batch = task.splits(0).train.take(slice(0, 64)).to(dtype=torch.float64)
    model = task.model(0).double()
    direction = [
        torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).double()
        for i, p in enumerate(model.parameters())
    ]

    @torch.no_grad()
    def loss_at(t):
        for p, d in zip(model.parameters(), direction, strict=True):
            p.add_(d, alpha=t)
        value = task.loss(model(batch.inputs), batch.targets).item()
        for p, d in zip(model.parameters(), direction, strict=True):
            p.sub_(d, alpha=t)
        return value

    def third(h):
        return loss_at(3 * h) - 3 * loss_at(2 * h) + 3 * loss_at(h) - loss_at(0)

    assert third(2e-3) / third(1e-3) == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("name", SHAPES)
def test_adam_reaches_the_targets_within_the_default_budget(name):
    task = tasks.create(name)
    splits, model = task.splits(0), task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(0)
    waiting = list(task.targets)
    for _ in range(int(task.config.epochs)):
        order = torch.randperm(len(splits.train), generator=rng)
        for index in order.split(task.config.batch_size):
            optimizer.zero_grad()
            batch = splits.train.take(index)
            task.loss(model(batch.inputs), batch.targets).backward()
            optimizer.step()
        with torch.no_grad():
            outputs = model(splits.validation.inputs)
            found = {f"validation_{k}": v for k, v in task.metrics(outputs, splits.validation.targets).items()}
            found["train_loss"] = task.loss(model(splits.train.inputs), splits.train.targets).item()
        waiting = [target for target in waiting if not target.reached(found[target.metric])]
        if not waiting:
            return
    pytest.fail(f"not reached: {', '.join(map(str, waiting))}")
