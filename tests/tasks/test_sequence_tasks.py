"""The generated sequence problems: what is asked is what the sequence says."""

from __future__ import annotations

import math

import pytest
import torch

import hybridopt.tasks as tasks

NAMES = ["adding_rnn", "multiplication_rnn", "temporal_order_rnn", "memorization_rnn", "permutation_rnn"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_differ_are_reproducible_and_leave_the_generator_alone(name):
    task = tasks.create(name, train_samples=200, validation_samples=200)
    state = torch.get_rng_state()
    first, again, other = task.splits(0), task.splits(0), task.splits(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(first.validation.inputs, first.test.inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_loss_of_a_fresh_network_is_finite_and_differentiable(name, cell):
    task = tasks.create(name, train_samples=50, cell=cell, hidden=3)
    train = task.splits(0).train
    loss = task.loss(task.model(0)(train.inputs), train.targets)
    loss.backward()
    assert math.isfinite(float(loss.detach()))


def test_products_of_the_marked_numbers():
    train = tasks.create("multiplication_rnn", T=9, train_samples=300).splits(0).train
    numbers, markers = train.inputs.unbind(-1)
    for row in range(300):
        marked = numbers[row][markers[row] > 0]
        assert len(marked) == 2
        assert float(train.targets[row]) == pytest.approx(float(marked.prod()))


def test_the_trivial_loss_of_products_is_their_variance():
    task = tasks.create("multiplication_rnn", train_samples=20000)
    assert task.trivial_loss(task.splits(0)) == pytest.approx(7 / 144, rel=0.04)


@pytest.mark.parametrize(("bits", "T"), [(2, 20), (3, 30), (2, 10), (3, 10)])
def test_the_class_is_the_order_of_the_symbols_that_count(bits, T):
    task = tasks.create("temporal_order_rnn", bits=bits, T=T, train_samples=400)
    splits = task.splits(0)
    symbols = splits.train.inputs.argmax(-1)
    assert (splits.train.inputs.sum(-1) == 1).all()
    for row, target in zip(symbols, splits.train.targets, strict=True):
        relevant = row[row >= 4] - 4
        assert len(relevant) == bits
        assert int("".join(str(int(v)) for v in relevant), 2) == int(target)
    assert set(splits.train.targets.tolist()) == set(range(2**bits))
    assert task.trivial_loss(splits) == pytest.approx(bits * math.log(2), rel=0.02)
    assert task.model(0)(splits.train.inputs[:2]).shape == (2, 2**bits)


def test_memorization_asks_for_the_bits_after_the_trigger():
    task = tasks.create("memorization_rnn", bits=5, T=7, train_samples=100)
    train = task.splits(0).train
    symbols = train.inputs.argmax(-1)
    assert symbols.shape == (100, 17)
    assert torch.equal(symbols[:, :5], train.targets)
    assert (symbols[:, 12] == 3).all()
    assert (symbols[:, 5:12] == 2).all()
    assert (symbols[:, 13:] == 2).all()
    assert task.model(0)(train.inputs).shape == (100, 5, 2)
    perfect = torch.nn.functional.one_hot(train.targets, 2).float() * 20
    assert task.metrics(perfect, train.targets) == {"accuracy": 1.0, "bit_accuracy": 1.0}
    perfect[0, 0] = perfect[0, 0].flip(0)
    assert task.metrics(perfect, train.targets) == {
        "accuracy": pytest.approx(0.99),
        "bit_accuracy": pytest.approx(1 - 1 / 500),
    }
    assert task.trivial_loss(task.splits(0)) == pytest.approx(math.log(2), rel=0.03)


def test_the_answer_of_the_memorization_network_starts_at_the_trigger():
    """Nothing before the trigger is read out: five answers for five steps, the trigger's being the first."""
    task = tasks.create("memorization_rnn", bits=5, T=4, hidden=3)
    model, inputs = task.model(0), task.splits(0).train.inputs[:3]
    whole = model.readout(model.recurrent(inputs)[0])
    torch.testing.assert_close(model(inputs), whole[:, 9:])


@pytest.mark.parametrize(("T", "symbols"), [(20, 100), (12, 6)])
def test_the_permutation_is_recalled_by_its_first_symbol(T, symbols):
    task = tasks.create("permutation_rnn", T=T, symbols=symbols, train_samples=100)
    train = task.splits(0).train
    sequence = train.inputs.argmax(-1)
    assert torch.equal(sequence[:, 0], train.targets)
    assert (sequence[:, 1:] >= 2).all()
    first_round = sequence[:, 1 : 1 + min(T - 1, symbols - 2)]
    assert all(len(set(row.tolist())) == len(row) for row in first_round), "no repetition within a permutation"
