"""Character language models on a text that the test writes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch

import hybridopt as ho
from hybridopt.core import ConfigError, DataError
from hybridopt.tasks.data.shakespeare import SHAKESPEARE, load_text
from hybridopt.tasks.shakespeare_lstm import ShakespeareLSTM
from hybridopt.tasks.shakespeare_transformer import ShakespeareTransformer

TEXT = ("to be, or not to be: that is the question.\n" * 100).encode()


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare").mkdir()

    def write(content: bytes):
        (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
        return replace(SHAKESPEARE, sha256=hashlib.sha256(content).hexdigest())

    return write


def small(cls, source, **options):
    return type("Tiny", (cls,), {"source": source})(length=8, hidden=8, batch_size=4, **options)


@pytest.mark.parametrize("cls", [ShakespeareLSTM, ShakespeareTransformer])
def test_targets_are_the_next_characters_and_parts_are_in_order(cls, source):
    task = small(cls, source(TEXT))
    splits = task.splits(0)
    symbols, alphabet = load_text(task.source)
    assert alphabet == len(set(TEXT))
    joined = splits.train.inputs.flatten()
    assert torch.equal(joined, symbols[: len(joined)])
    assert torch.equal(splits.train.inputs[:, 1:], splits.train.targets[:, :-1])
    assert len(joined) <= 0.9 * len(TEXT)
    outputs = task.model(0)(splits.train.inputs[:3])
    assert outputs.shape == (3, 8, 65)
    assert math.isfinite(float(task.loss(outputs, splits.train.targets[:3])))
    shares = torch.tensor([TEXT.count(c) for c in set(TEXT)]).double() / len(TEXT)
    assert task.trivial_loss(splits) == pytest.approx(float(-(shares * shares.log()).sum()), rel=0.02)


def test_the_networks_see_no_later_character(source):
    for cls in (ShakespeareLSTM, ShakespeareTransformer):
        task = small(cls, source(TEXT))
        model, inputs = task.model(0).eval(), task.splits(0).train.inputs[:2].clone()
        before = model(inputs)
        inputs[:, 5] = (inputs[:, 5] + 1) % 10
        after = model(inputs)
        torch.testing.assert_close(before[:, :5], after[:, :5])
        assert not torch.allclose(before[:, 5], after[:, 5])


@pytest.mark.parametrize("cls", [ShakespeareLSTM, ShakespeareTransformer])
def test_second_derivatives_are_right(cls, source):
    task = small(cls, source(TEXT), layers=1)
    split = task.splits(0).train.take(slice(0, 2))
    model = task.model(0).double()
    objective = ho.Objective(model, task.loss, split.inputs, split.targets)
    vector = torch.randn(objective.space.n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()  # the layer norms bend sharply at the small embeddings of the start
    x, step = objective.position(), 1e-5
    sides = [objective.value_and_grad(x + sign * step * vector)[1] for sign in (1, -1)]
    product = objective.at().hessian() @ vector
    torch.testing.assert_close(product, (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_perplexity_is_the_exponential_of_the_loss(source):
    task = small(ShakespeareLSTM, source(TEXT))
    outputs, targets = torch.zeros(2, 8, 65), torch.zeros(2, 8, dtype=torch.int64)
    metrics = task.metrics(outputs, targets)
    assert metrics["perplexity"] == pytest.approx(65)
    assert metrics["bits_per_character"] == pytest.approx(math.log2(65))
    assert metrics["accuracy"] == 1.0


def test_fewer_characters(source):
    assert len(small(ShakespeareLSTM, source(TEXT), characters=1000).splits(0).train) == 999 // 8


def test_bad_texts(source):
    with pytest.raises(DataError, match="no plain ASCII"):
        small(ShakespeareLSTM, source("café".encode() * 100)).splits(0)
    with pytest.raises(DataError, match="no window"):
        small(ShakespeareLSTM, source(b"abc")).splits(0)
    with pytest.raises(ConfigError, match="65 different"):
        small(ShakespeareLSTM, source(bytes(range(128)) * 10)).splits(0)


def test_heads_must_divide_the_width(source):
    with pytest.raises(ConfigError, match=r"heads=3 must divide hidden=8"):
        small(ShakespeareTransformer, source(TEXT), heads=3).model(0)
