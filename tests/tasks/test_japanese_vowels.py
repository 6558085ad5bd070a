"""Variable-length sequences: parsing, standardization over valid frames, padding without influence."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch

from hybridopt.core import DataError
from hybridopt.tasks.data.vowels import VOWELS, load_series, padded
from hybridopt.tasks.japanese_vowels import JapaneseVowels

HEADER = "# a comment\n@problemName JapaneseVowels\n@classLabel true 1 2 3 4 5 6 7 8 9\n@data\n"


def series_text(count, seed):
    rng = torch.Generator().manual_seed(seed)
    lines = []
    for index in range(count):
        frames = int(torch.randint(7, 30, (1,), generator=rng))
        values = torch.randn(12, frames, generator=rng)
        lines.append(":".join([*(",".join(f"{v:.4f}" for v in row) for row in values), str(index % 9 + 1)]))
    return HEADER + "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    (tmp_path / "japanese-vowels").mkdir()

    def to_source(index, text):
        source = VOWELS[index]
        (tmp_path / "japanese-vowels" / source.name).write_text(text)
        return replace(source, sha256=hashlib.sha256(text.encode()).hexdigest())

    return to_source


@pytest.fixture
def task(write):
    sources = (write(0, series_text(90, 0)), write(1, series_text(18, 1)))
    return type("Tiny", (JapaneseVowels,), {"sources": sources})(hidden=4)


def test_splits_are_standardized_over_valid_frames(task):
    splits = task.splits(0)
    assert [len(part) for part in splits] == [72, 18, 18]
    assert splits.train.targets.bincount().tolist() == [8] * 9, "stratified"
    mask = splits.train.inputs[..., -1] > 0
    valid = splits.train.inputs[..., :-1][mask]
    torch.testing.assert_close(valid.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(valid.std(0, correction=0), torch.ones(12), atol=1e-5, rtol=0)
    assert (splits.train.inputs[~mask] == 0).all()


def test_padding_has_no_influence(task):
    model, inputs = task.model(0), task.splits(0).test.inputs
    for row in inputs[:5]:
        frames = int(row[:, -1].sum())
        torch.testing.assert_close(model(row[None]), model(row[None, :frames]), atol=1e-6, rtol=1e-5)


def test_the_ledger_counts_valid_frames(task):
    splits = task.splits(0)
    frames = splits.train.inputs[..., -1].sum(1)
    assert task.reference_samples(splits) == frames.sum() < 29 * len(splits.train)
    assert task.work(splits.train.inputs[:3], splits.train.targets[:3]) == frames[:3].sum()


def test_padded():
    out = padded([torch.ones(2, 3), 2 * torch.ones(1, 3)], 4)
    assert out.shape == (2, 4, 4)
    assert out[..., -1].sum(1).tolist() == [2, 1]
    with pytest.raises(DataError, match="5 frames, more than 4"):
        padded([torch.ones(5, 3)], 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [("no header\n", "no series"), (HEADER + "1,2:3,4:one\n", "series 1 does not fit"), (HEADER, "no series")],
)
def test_bad_files(write, text, message):
    with pytest.raises(DataError, match=message):
        load_series(write(0, text))
