from __future__ import annotations

import pytest
import torch

import hybridopt.tasks as tasks
from hybridopt.core import ConfigError


def test_targets_are_the_sums_of_the_marked_numbers():
    task = tasks.create("adding_rnn", T=11, train_samples=300)
    train = task.splits(0).train
    numbers, markers = train.inputs.unbind(dim=-1)
    assert train.inputs.shape == (300, 11, 2)
    assert train.targets.shape == (300, 1)
    torch.testing.assert_close((numbers * markers).sum(dim=1, keepdim=True), train.targets)
    assert ((markers == 0) | (markers == 1)).all()
    assert (markers[:, :5].sum(dim=1) == 1).all()
    assert (markers[:, 5:].sum(dim=1) == 1).all()
    assert (markers.sum(dim=0) > 0).all(), "every step of both halves gets marked"
    assert numbers.min() >= 0
    assert numbers.max() <= 1


def test_trivial_loss_is_the_variance_of_a_sum_of_two_uniform_numbers():
    task = tasks.create("adding_rnn", T=4, train_samples=20000)
    splits = task.splits(0)
    trivial = task.trivial_loss(splits)
    assert trivial == pytest.approx(1 / 6, rel=0.03)
    targets = splits.train.targets
    assert trivial == pytest.approx(task.loss(targets.mean().expand_as(targets), targets).item(), rel=1e-5)
    assert trivial == pytest.approx(tasks.Task.trivial_loss(task, splits), rel=1e-4)


def test_parts_differ_and_are_reproducible():
    task = tasks.create("adding_rnn")
    state = torch.get_rng_state()
    first, second, other = task.splits(0), task.splits(0), task.splits(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(first.validation.inputs, first.test.inputs)
    shorter = tasks.create("adding_rnn", train_samples=100).splits(0)
    assert torch.equal(shorter.validation.inputs, first.validation.inputs), "own stream for each part"


def test_metrics_count_sequences_within_the_tolerance():
    targets = torch.tensor([[1.0], [1.0], [1.0], [1.0]])
    outputs = torch.tensor([[1.03], [0.97], [1.05], [float("nan")]])
    assert tasks.create("adding_rnn").metrics(outputs, targets) == {"accuracy": 0.5, "error_rate": 0.5}


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_every_cell_gives_one_number(cell):
    task = tasks.create("adding_rnn", cell=cell, hidden=3, T=5)
    split = task.splits(0).validation
    outputs = task.model(0)(split.inputs)
    assert outputs.shape == split.targets.shape
    task.loss(outputs, split.targets).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 3}, "adding_rnn.T must be >= 4, not 3"),
        ({"cell": "elman"}, "adding_rnn.cell must be one of 'rnn', 'gru', 'lstm'"),
        ({"initialization": "xavier"}, "must be one of 'default', 'orthogonal'"),
        ({"train_samples": 0}, "adding_rnn.train_samples must be >= 1"),
        ({"hidden": 2.5}, "adding_rnn.hidden must be of type int"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError) as caught:
        tasks.create("adding_rnn", **options)
    assert message in str(caught.value)


def test_batch_larger_than_the_training_set():
    with pytest.raises(ConfigError, match="batch_size is 50, but the training set has 20 samples"):
        tasks.create("adding_rnn", train_samples=20).splits(0)


def test_lbfgs_reaches_the_targets():
    """The task must be solvable by a full-batch method, not only by many noisy steps."""
    task = tasks.create("adding_rnn")
    splits, model = task.splits(0), task.model(0)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=5, max_eval=25, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = task.loss(model(splits.train.inputs), splits.train.targets)
        loss.backward()
        return loss

    for _ in range(60):
        optimizer.step(closure)
        with torch.no_grad():
            found = {
                "train_loss": closure_value(task, model, splits.train),
                "validation_loss": closure_value(task, model, splits.validation),
            }
        if all(target.reached(found[target.metric]) for target in task.targets):
            return
    pytest.fail(f"not reached: {found}")


def closure_value(task, model, split):
    return task.loss(model(split.inputs), split.targets).item()
