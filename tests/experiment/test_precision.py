"""The forward pass under bfloat16 autocast: what is rounded, what is not, and curvature through it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hybridopt.core import CombinationError
from hybridopt.experiment.build import build, build_task, check_buildable
from hybridopt.experiment.config import resolve
from hybridopt.experiment.job import run_job
from hybridopt.experiment.precision import BF16Autocast
from hybridopt.objective import Objective


def config(**values: Any):
    base = {"task": {"name": "digits_cnn", "batch_size": 64}, "device": "cpu", "threads": 1, "optimizer": "newton_cg"}
    return resolve({**base, "precision": "bf16_autocast", **values})


def objective(task: str, precision: str) -> Objective:
    parts = build(config(task={"name": task, "batch_size": 64}, precision=precision))
    return Objective(parts.model, parts.task.loss, *parts.batches.batch(0)[:2])


def test_layers_compute_in_bfloat16_and_nothing_else_does() -> None:
    parts = build(config())
    model, seen = parts.model, []
    for layer in model.children():
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss, (gradient, *_) = Objective(model, parts.task.loss, *parts.batches.batch(0)[:2]).loss_and_gradients(
        list(model.parameters())
    )
    assert set(seen) == {torch.bfloat16}
    assert model(parts.batches.batch(0)[0]).dtype == torch.float32
    assert {loss.dtype, gradient.dtype, *(p.dtype for p in model.parameters())} == {torch.float32}
    assert list(model.state_dict()) == list(build(config(precision="full")).model.state_dict())


@pytest.mark.parametrize("task", ["digits_cnn", "digits_rnn"])
def test_curvature_products_are_those_of_the_full_precision_to_8_bits(task: str) -> None:
    found = []
    for precision in ("full", "bf16_autocast"):
        point = objective(task, precision).at()
        vector = torch.randn(point.gradient.shape, generator=torch.Generator().manual_seed(0))
        found.append((point.gradient, point.hessian() @ vector, point.gauss_newton() @ vector))
    for exact, rounded in zip(*found, strict=True):
        assert 1e-5 < float((exact - rounded).norm() / exact.norm()) < 2e-2


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lbfgs", "newton_cg", "kfac"])
def test_methods_descend(tmp_path: Path, optimizer: str) -> None:
    rate = {"adam": {"lr": 0.01}, "sgd": {"lr": 0.5}}.get(optimizer, {})
    status = run_job(tmp_path, config(optimizer={"name": optimizer, **rate}, budget={"steps": 20}))
    assert status["status"] == "done"
    assert status["summary"]["train_loss"] < 2.0


def test_a_failed_forward_leaves_autocast() -> None:
    model = nn.Linear(3, 2)
    BF16Autocast(BF16Autocast.Config(), torch.float32).prepare(model, torch.device("cpu"))
    with pytest.raises(RuntimeError):
        model(torch.ones(4, 5))
    assert not torch.is_autocast_enabled("cpu")
    other = copy.deepcopy(model)
    assert other(torch.ones(4, 3)).dtype == torch.float32
    assert not torch.equal(
        other(torch.full((4, 3), 1 / 3)), nn.functional.linear(torch.full((4, 3), 1 / 3), *model.parameters())
    )


def test_float64_is_refused() -> None:
    values = config(dtype="float64")
    task = build_task(values)
    with pytest.raises(CombinationError, match="dtype=float32"):
        check_buildable(values, task.splits(0), task)
