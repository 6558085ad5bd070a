"""MNIST classification, curves, residual MLP and logistic regression."""

from __future__ import annotations

import pytest
import torch

import hybridopt as ho
import hybridopt.tasks as tasks
from hybridopt.tasks.curves_autoencoder import curves
from hybridopt.tasks.mnist_cnn import MNISTCNN, MNISTRNN
from tests.tasks.idx_files import TEST, TRAIN, write_source


@pytest.mark.parametrize("cls", [MNISTCNN, MNISTRNN])
def test_mnist_classification(cls, tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))
    tiny = type("Tiny", (cls,), {"source": write_source(tmp_path)})
    splits = tiny(batch_size=10).splits(0)
    assert [len(split) for split in splits] == [TRAIN * 5 // 6, TRAIN // 6, TEST]
    assert abs(float(splits.train.inputs.mean())) < 1e-4
    assert tiny(batch_size=10).model(0)(splits.test.inputs).shape == (TEST, 10)
    fewer = tiny(batch_size=10, train_samples=50).splits(0)
    assert len(fewer.train) == 50
    assert fewer.train.targets.bincount().tolist() == [5] * 10, "stratified"
    assert torch.equal(fewer.validation.targets, splits.validation.targets)


def test_curves_are_drawn_where_their_points_are():
    images = curves(50, 28, torch.Generator().manual_seed(0)).view(50, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.amax((1, 2)) > 0.6).all(), "every image shows a curve"
    assert (images.mean((1, 2)) < 0.3).all(), "and is mostly empty"


@pytest.mark.parametrize(("side", "parameters"), [(14, 52_552), (28, 842_340)])
def test_curves_autoencoder(side, parameters):
    task = tasks.create("curves_autoencoder", side=side, train_samples=100, validation_samples=10)
    splits, model = task.splits(0), task.model(0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert task.loss(model(splits.train.inputs), splits.train.targets).isfinite()
    assert task.trivial_loss(splits) > 0


def test_residual_blocks_add_to_their_input():
    task = tasks.create("residual_mlp", width=8, blocks=2)
    model = task.model(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "outer" in name:
                parameter.zero_()
        x = torch.randn(3, 64)
        torch.testing.assert_close(model(x), model[-1](model[-2](model[0](x))))


@pytest.mark.parametrize("name", ["logistic", "nonconvex_logistic"])
def test_logistic_loss_and_its_regularizer(name):
    task = tasks.create(name, alpha=0.1)
    splits = task.splits(0)
    model = task.model(0)
    outputs = model(splits.train.inputs)
    assert float(task.loss(outputs, splits.train.targets).detach()) == pytest.approx(0.6931, abs=1e-3), "starts at zero"
    with torch.no_grad():
        model.linear.weight.fill_(2.0)
    outputs = model(splits.train.inputs)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, :1], splits.train.targets)
    penalty = 0.1 * 30 * (2.0 if name == "logistic" else 4 / 5)
    assert float((task.loss(outputs, splits.train.targets) - plain).detach()) == pytest.approx(penalty, rel=1e-5)


def test_only_the_nonconvex_regularizer_has_negative_curvature():
    for name, negative in (("logistic", False), ("nonconvex_logistic", True)):
        task = tasks.create(name, alpha=1.0)
        train = task.splits(0).train
        model = task.model(0).double()
        with torch.no_grad():
            model.linear.weight.fill_(3.0)
        objective = ho.Objective(model, task.loss, train.inputs.double(), train.targets.double())
        least = float(torch.linalg.eigvalsh(objective.at().hessian().dense())[0])
        assert (least < 0) is negative


def test_precision_and_recall():
    task = tasks.create("logistic")
    outputs = torch.tensor([[1.0, 0], [1.0, 0], [-1.0, 0], [-1.0, 0], [1.0, 0]])
    targets = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]])
    metrics = task.metrics(outputs, targets)
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["precision"] == pytest.approx(2 / 3)
    assert metrics["recall"] == pytest.approx(2 / 3)
    assert metrics["f1"] == pytest.approx(2 / 3)
