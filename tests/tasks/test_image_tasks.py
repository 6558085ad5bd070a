from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import hybridopt.tasks as tasks
from hybridopt.core import DataError
from hybridopt.tasks.fashion_cnn import FashionCNN
from hybridopt.tasks.mnist_autoencoder import MNISTAutoencoder
from tests.tasks.idx_files import TEST, TRAIN, write_source

GIVEN = os.environ.get("HYBRIDOPT_DATA", "")


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    return type("TinyFashion", (FashionCNN,), {"source": write_source(tmp_path, "fashion-mnist")})


@pytest.fixture
def autoencoder(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    return type("TinyMNIST", (MNISTAutoencoder,), {"source": write_source(tmp_path)})


def test_fashion_splits(fashion):
    splits = fashion(batch_size=10).splits(0)
    assert [len(split) for split in splits] == [TRAIN * 5 // 6, TRAIN // 6, TEST]
    assert splits.train.inputs.shape[1:] == (1, 28, 28)
    assert splits.train.inputs.min() >= 0
    assert splits.train.inputs.max() == 1
    assert splits.validation.targets.bincount().tolist() == [2] * 10, "stratified"
    other = fashion(batch_size=10).splits(1)
    assert torch.equal(other.test.inputs, splits.test.inputs), "the published test set is the test set"
    assert not torch.equal(other.validation.inputs, splits.validation.inputs)


def test_fashion_standardized(fashion):
    splits = fashion(batch_size=10, standardize=True).splits(0)
    assert abs(splits.train.inputs.mean()) < 1e-4
    assert abs(splits.train.inputs.std() - 1) < 1e-3


def test_fashion_trivial_loss(fashion):
    task = fashion(batch_size=10)
    assert task.trivial_loss(task.splits(0)) == pytest.approx(math.log(10), rel=1e-6)


def test_fashion_model_is_2c2d():
    model = tasks.create("fashion_cnn").model(0)
    sizes = [tuple(p.shape) for p in model.parameters() if p.ndim > 1]
    assert sizes == [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)]
    assert sum(p.numel() for p in model.parameters()) == 3_274_634
    for p in model.parameters():
        if p.ndim == 1:
            assert torch.equal(p, torch.full_like(p, 0.05))
        else:
            assert p.abs().max() <= 0.1
    # A normal variable cut off at two deviations keeps 0.8796 of its deviation.
    assert model[7].weight.std().item() == pytest.approx(0.8796 * 0.05, rel=1e-2)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_missing_files_name_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    for name, folder in (("fashion_cnn", "fashion-mnist"), ("mnist_autoencoder", "mnist")):
        with pytest.raises(DataError, match=rf"sub-folder {folder}, or unset HYBRIDOPT_DATA"):
            tasks.create(name).splits(0)


def test_autoencoder_splits_share_inputs_and_targets(autoencoder):
    splits = autoencoder(batch_size=10).splits(0)
    assert splits.train.inputs.shape == (TRAIN * 5 // 6, 784)
    assert all(split.targets is split.inputs for split in splits)
    assert splits.train.inputs.max() == 1


def test_autoencoder_model():
    model = tasks.create("mnist_autoencoder").model(0)
    linear = [module for module in model if isinstance(module, nn.Linear)]
    widths = [784, 1000, 500, 250, 30, 250, 500, 1000, 784]
    assert [module.in_features for module in linear] + [784] == widths
    assert [type(module) for module in model].count(nn.Sigmoid) == 6, "code and output layer are linear"
    assert isinstance(model[7], nn.Linear), "no unit between the code layer and the decoder"
    for module in linear:
        assert ((module.weight != 0).sum(dim=1) == 15).all(), "15 incoming weights"
        assert module.weight[module.weight != 0].std().item() == pytest.approx(1, abs=0.1)
        assert not module.bias.any()
    assert linear[0].weight.count_nonzero(dim=0).float().mean() == pytest.approx(15000 / 784)


def test_autoencoder_loss_and_metric_count_per_image():
    task = tasks.create("mnist_autoencoder")
    logits = torch.randn(5, 784, generator=torch.Generator().manual_seed(0)).double()
    pixels = torch.rand(5, 784, generator=torch.Generator().manual_seed(1)).double()
    p = logits.sigmoid()
    cross_entropy = -(pixels * p.log() + (1 - pixels) * (1 - p).log()).sum(dim=1).mean()
    torch.testing.assert_close(task.loss(logits, pixels), cross_entropy)
    squared = ((p - pixels) ** 2).sum().item() / 5
    assert task.metrics(logits, pixels)["squared_error"] == pytest.approx(squared)


def test_autoencoder_trivial_loss_is_that_of_the_mean_image(autoencoder):
    task = autoencoder(batch_size=10)
    splits = task.splits(0)
    pixels = splits.train.targets.double()
    mean = pixels.mean(dim=0).expand_as(pixels)
    assert task.trivial_loss(splits) == pytest.approx(task.loss(mean.logit(), pixels).item(), rel=1e-6)


def test_autoencoder_trivial_loss_with_pixels_that_are_always_dark(autoencoder):
    task = autoencoder(batch_size=10)
    splits = task.splits(0)
    splits.train.targets[:, :100] = 0
    assert math.isfinite(task.trivial_loss(splits))


@pytest.mark.slow
@pytest.mark.skipif(not GIVEN, reason="set HYBRIDOPT_DATA to a folder with mnist and fashion-mnist")
@pytest.mark.parametrize(
    ("name", "folder", "mean"),
    [("fashion_cnn", "fashion-mnist", 0.2860), ("mnist_autoencoder", "mnist", 0.1307)],
)
def test_published_files(name, folder, mean):
    if not (Path(GIVEN) / folder).is_dir():
        pytest.skip(f"HYBRIDOPT_DATA has no folder {folder}")
    splits = tasks.create(name).splits(0)
    assert [len(split) for split in splits] == [50_000, 10_000, 10_000]
    pixels = (splits.train.inputs.double().sum() + splits.validation.inputs.double().sum()) / (60_000 * 784)
    assert pixels.item() == pytest.approx(mean, abs=5e-5)
